"""What doctor checks on the operator's own machine: versions, vault, compose files, bucket."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from fabfile.backup import container, host_files, host_kit
from fabfile.backup.bucket import Bucket
from fabfile.base.check import Check
from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.units import format_duration, format_size
from fabfile.config.inventory import Inventory
from fabfile.deploy import drilled_apps, other_app_stack, proxy_stack, stacks
from fabfile.deploy.stacks import Wanted
from fabfile.doctor.finding import Finding, failure
from fabfile.ssh.remote_command import RemoteFile

if TYPE_CHECKING:
    from fabfile.vault.reading import Secrets

GROUP = "here"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"

_AT_LEAST = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)")


@dataclass(frozen=True)
class Here:
    """What was found here, and what the hosts are to be compared with because of it."""

    findings: tuple[Finding, ...]
    wanted: tuple[Wanted, ...] | None
    files: Mapping[str, Sequence[RemoteFile]] | None


def look(inventory: Inventory, read_vault: Callable[[], Secrets]) -> Here:
    """Open the vault and render everything that would be deployed or installed."""
    findings = [Finding(GROUP, versions())]
    try:
        secrets = read_vault()
    except SwarmkeepError as error:
        return Here((*findings, failure(GROUP, "vault", error)), None, None)
    findings.append(Finding(GROUP, vault_entries(inventory, secrets)))
    if inventory.backup.recipients:
        findings.append(Finding(GROUP, backup_keys(inventory, secrets)))
    wanted: tuple[Wanted, ...] | None = None
    files = None
    try:
        wanted = (stacks.database(inventory, secrets), stacks.application(inventory, secrets))
        if inventory.proxy.hosts:
            wanted = (*wanted, proxy_stack.proxy(inventory, secrets))
        wanted = (
            *wanted,
            *(other_app_stack.other_app(one, inventory, secrets) for one in inventory.apps),
        )
        names = ", ".join(name for stack in wanted for name in stack.services)
        findings.append(Finding(GROUP, Check("compose", True, f"all files render: {names}")))
    except SwarmkeepError as error:
        findings.append(failure(GROUP, "compose", error))
    try:
        apps = drilled_apps.settings(inventory, secrets)
        files = {
            entry.name: host_files.files(entry, inventory, secrets, apps)
            for entry in host_kit.hosts(inventory)
            if not container.is_used(inventory)
        }
    except SwarmkeepError as error:
        findings.append(failure(GROUP, "backup files", error))
    return Here(tuple(findings), wanted, files)


def vault_entries(inventory: Inventory, secrets: Secrets) -> Check:
    """Whether the vault has what is needed. The values are looked at, never shown."""
    from fabfile.vault.reading import KNOWN, POSTGRES_PASSWORD, REGISTRY_PASSWORD, REGISTRY_USER

    needed = [
        POSTGRES_PASSWORD,
        *((REGISTRY_USER, REGISTRY_PASSWORD) if inventory.registry else ()),
        *(one.password_entry for one in inventory.apps),
    ]
    try:
        for name in needed:
            secrets.require(name)
    except ConfigError as error:
        apps = {one.password_entry: one.name for one in inventory.apps}
        # Those of apps are made by the first deploy.
        hint = f"inv deploy-app {apps[name]} makes it" if name in apps else error.hint
        return Check("vault", False, error.message, hint)
    there = [name for name in dict.fromkeys([*needed, *KNOWN]) if name in secrets.names()]
    return Check("vault", True, f"{secrets.file.name} opens; it has {', '.join(there)}")


def backup_keys(inventory: Inventory, secrets: Secrets) -> Check:
    """Whether somebody here can read what is encrypted from now on, and more than one key can."""
    from fabfile.base.age_encryption import key_id
    from fabfile.vault.backup_identity import of_entry
    from fabfile.vault.reading import BACKUP_IDENTITY

    recipients = inventory.backup.recipients
    keys = ", ".join(map(key_id, recipients))
    try:
        # Not the former one: what is made from now on is for this one.
        identity = of_entry(secrets, BACKUP_IDENTITY)
    except ConfigError as error:
        return Check("backup keys", False, error.message, error.hint)
    detail = f"backups are encrypted for {keys}"
    if identity and not set(identity.publics) & set(recipients):
        return Check(
            "backup keys",
            False,
            f"{detail}; the vault's identity ({', '.join(identity.key_ids)}) is none of them",
            "add its public key to backup.recipients (inv backup.keys), or remove the entry",
        )
    if not identity:
        detail += "; the vault has none of their identities: a restore needs --identity FILE"
    if len(recipients) == 1:
        detail += "; warning: one key only: if it is lost, so is every backup"
    return Check("backup keys", True, detail)


def versions(project: Path = PROJECT) -> Check:
    """Python and the packages against what pyproject.toml asks for at least."""
    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    old = []
    shown = [f"Python {sys.version.split()[0]}"]
    for requirement in wanted:
        match = _AT_LEAST.match(requirement)
        if not match:
            continue
        name, least = match.groups()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            old.append(f"{name} is missing")
            continue
        shown.append(f"{name} {found}")
        if _numbers(found) < _numbers(least):
            old.append(f"{name} {found} is older than {least}")
    return Check("versions", not old, ", ".join(old or shown), "install the locked ones: make venv")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def bucket(inventory: Inventory, project_id: str) -> tuple[Finding, int | None]:
    """Whether this person's AWS credentials reach the bucket, and the newest backup's bytes."""
    now = datetime.now(UTC)
    try:
        holding = Bucket(inventory.backup, project_id).newest(inventory.postgres.database, now)
    except SwarmkeepError as error:
        return failure(GROUP, "bucket", error), None
    if not holding.backups:
        check = Check("bucket", True, f"{holding.place} can be listed; no backup there yet")
        return Finding(GROUP, check), None
    newest = holding.backups[0]
    age = format_duration(max(0.0, (now - newest.timestamp).total_seconds()))
    detail = f"{holding.place} can be listed; the newest is {age} old, {format_size(newest.size)}"
    return Finding(GROUP, Check("bucket", True, detail)), newest.size
