"""What a host needs for its part of the backup: the database's on role=db hosts, NocoDB's
attachments on role=app hosts. Paths, files, packages; nothing here runs anything.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fabfile.backup.host_cron import cron_entry
from fabfile.backup.host_kit import COMMON, Kit, kit_of
from fabfile.backup.host_settings import config, credentials, drill_identity, ping_addresses
from fabfile.backup.script_files import from_template, script_text
from fabfile.ssh.remote_command import RemoteFile

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory
    from fabfile.vault.reading import Secrets

OTHER_PROJECT = 96
"""Exit code of `guard`; no script of ours has it."""


def scripts_version() -> str:
    """The version of the scripts in this repository."""
    found = re.search(r"^readonly VERSION=([0-9.]+)$", _script(COMMON).content.decode(), re.M)
    assert found
    return found[1]


def owner_setting(kit: Kit, inventory: Inventory) -> str:
    """The line of the settings that says what they are for: no two projects have the same."""
    if kit.of_database:
        return f"DB_SERVICE_NAME={shlex.quote(inventory.postgres.service)}"
    return f"APP_STACK={shlex.quote(inventory.app.stack)}"


def guard(kit: Kit, inventory: Inventory) -> str:
    """The script that ends with OTHER_PROJECT where the settings are of another project, and
    prints what they are for.
    """
    line = owner_setting(kit, inventory)
    return (
        f"if [ -e {kit.config} ] && ! grep -qxF {shlex.quote(line)} {kit.config}; then\n"
        f"  grep -m 1 '^{line.partition('=')[0]}=' {kit.config}\n"
        f"  exit {OTHER_PROJECT}\nfi\n"
    )


def files(
    entry: HostEntry, inventory: Inventory, secrets: Secrets, apps: bytes = b""
) -> list[RemoteFile]:
    """Given a host, return its files: the credentials only if the vault has them, otherwise
    what is configured on the node is used. `apps` says how drills start other apps
    (deploy/drilled_apps.py), b"" for none. Raises SwarmkeepError for half a key.
    """
    kit = kit_of(entry, inventory)
    key = credentials(secrets)
    found = [
        *(_script(path) for path in kit.scripts),
        RemoteFile(kit.config, config(entry, inventory, secrets), 0o600),
        RemoteFile(kit.cron, cron_entry(kit, inventory), 0o644),
        RemoteFile(kit.logrotate, from_template("backup.logrotate", LOG=kit.log), 0o644),
    ]
    if key:
        found.append(RemoteFile(kit.credentials, key, 0o600))
    if addresses := ping_addresses(kit, inventory, secrets):
        found.append(RemoteFile(kit.pings, addresses, 0o600))
    if identity := drill_identity(kit, inventory, secrets):
        found.append(RemoteFile(kit.identity, identity, 0o600))
    if apps and kit.of_database:
        found.append(RemoteFile(kit.apps, apps, 0o600))
    return found


def installed(kit: Kit) -> tuple[str, ...]:
    """Every path that `files` may name."""
    return (*kit.scripts, *kit.secrets, kit.config, kit.cron, kit.logrotate)


def removable(kit: Kit) -> tuple[str, ...]:
    """Every path of this project's own that an installation may have made, the schedule first."""
    found = (kit.cron, kit.config, *kit.secrets, kit.logrotate)
    return (*found, kit.checked, kit.images)


def fingerprint(wanted: Sequence[RemoteFile]) -> str:
    """One hash over all files: what a check was made with."""
    digest = hashlib.sha256()
    for file in wanted:
        digest.update(f"{file.path} {file.mode:o} {len(file.content)}\n".encode() + file.content)
    return digest.hexdigest()


def _script(path: str) -> RemoteFile:
    """A script of ours, by its path on a host; those in bin are run, the others sourced."""
    name = Path(path).name
    if "/bin/" in path:
        return RemoteFile(path, script_text(name), 0o755)
    return RemoteFile(path, script_text(f"parts/{name}"), 0o644)
