"""What a host needs for its part of the backup: the database's on role=db hosts, NocoDB's
attachments on role=app hosts. Paths, files, packages; nothing here runs anything.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import RemoteFile

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory
    from fabfile.vault.reading import Secrets

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
COMMON = "/usr/local/lib/backup-common.sh"
"""What the scripts share."""
RESTORE = "/usr/local/bin/restore-pg.sh"
"""The way back, which the schedule uses for drills; the parts that it sources lie with COMMON."""

OTHER_PROJECT = 96
"""Exit code of `guard`; no script of ours has it."""


@dataclass(frozen=True)
class Kit:
    """The files of one kind of backup: all are named after its script, by `name`.

    The scripts are shared by all projects on a host; what is about one project is named after it.
    """

    name: str
    ready: str
    """What it means that the script's own check has passed."""
    absent: str
    """What it means that the check found nothing to back up on this host."""
    others: tuple[str, ...] = ()
    """Further scripts that come with it."""
    project: str = ""

    @property
    def of_database(self) -> bool:
        """Whether it is the database's, not the attachments'."""
        return self.name == DATABASE.name

    @property
    def named(self) -> str:
        """What files of this project are called."""
        return f"{self.name}-{self.project}" if self.project else self.name

    @property
    def command(self) -> str:
        """The script with its settings."""
        return f"{self.script} --config {self.config}" if self.project else self.script

    @property
    def scripts(self) -> tuple[str, ...]:
        """Every script, which all projects on a host share."""
        return (self.script, COMMON, *self.others)

    @property
    def images(self) -> str:
        """Which images the stacks run, for the manifest: "SERVICE IMAGE" a line."""
        return f"/etc/{self.named}.images"

    @property
    def state_dir(self) -> str:
        """Where backup-files.sh keeps its lock and what it compares."""
        return f"/var/lib/{self.named}"

    @property
    def script(self) -> str:
        """The script."""
        return f"/usr/local/bin/{self.name}.sh"

    @property
    def config(self) -> str:
        """Its settings."""
        return f"/etc/{self.named}.conf"

    @property
    def credentials(self) -> str:
        """The AWS key from the vault."""
        return f"/etc/{self.named}.aws"

    @property
    def cron(self) -> str:
        """Its schedule."""
        return f"/etc/cron.d/{self.named}"

    @property
    def logrotate(self) -> str:
        """How long its log is kept."""
        return f"/etc/logrotate.d/{self.named}"

    @property
    def log(self) -> str:
        """Its log."""
        return f"/var/log/{self.named}.log"

    @property
    def checked(self) -> str:
        """Holds the fingerprint of what the last successful check was made with."""
        return f"/var/lib/{self.named}.checked"


DATABASE = Kit(
    "backup-pg",
    "ready: the bucket can be written, the database answers",
    "the bucket can be written; the database does not run here now",
    (RESTORE, *(f"/usr/local/lib/restore-{part}.sh" for part in ("set", "load", "drill"))),
)
ATTACHMENTS = Kit(
    "backup-files",
    "ready: the bucket can be written, NocoDB's files are here",
    "the bucket can be written; NocoDB has never run here, so there are no files",
)


KITS = (DATABASE, ATTACHMENTS)


def scripts_version() -> str:
    """The version of the scripts in this repository."""
    found = re.search(r"^readonly VERSION=([0-9.]+)$", _script(COMMON).content.decode(), re.M)
    assert found
    return found[1]


def hosts(inventory: Inventory) -> tuple[HostEntry, ...]:
    """The hosts that take part: those of the database, then those of the attachments."""
    app = inventory.with_role("app") if inventory.backup.files else ()
    return inventory.with_role("db") + app


def kit_of(entry: HostEntry, inventory: Inventory) -> Kit:
    """The kit of a host, by its role."""
    kit = DATABASE if entry.role == "db" else ATTACHMENTS
    return replace(kit, project=inventory.project)


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


def files(entry: HostEntry, inventory: Inventory, secrets: Secrets) -> list[RemoteFile]:
    """Given a host, return its files: the credentials only if the vault has them, otherwise
    what is configured on the node is used. Raises SwarmkeepError for half a key.
    """
    from fabfile.vault.reading import AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY

    kit = kit_of(entry, inventory)
    key, secret = secrets.get(AWS_ACCESS_KEY_ID), secrets.get(AWS_SECRET_ACCESS_KEY)
    if (key is None) != (secret is None):
        missing = AWS_SECRET_ACCESS_KEY if secret is None else AWS_ACCESS_KEY_ID
        raise SwarmkeepError(
            f"the vault holds one half of the nodes' AWS key, {missing} is missing",
            hint=f"inv secrets.set {missing}, or remove the other half",
        )
    found = [
        *(_script(path) for path in kit.scripts),
        RemoteFile(kit.config, config(entry, inventory, secrets), 0o600),
        RemoteFile(kit.cron, cron_entry(kit, inventory), 0o644),
        RemoteFile(kit.logrotate, _from_template("backup.logrotate", LOG=kit.log), 0o644),
    ]
    if key and secret:
        text = (
            "# Made by 'inv backup.install' from the vault.\n[default]\n"
            f"aws_access_key_id = {key.reveal()}\naws_secret_access_key = {secret.reveal()}\n"
        )
        found.append(RemoteFile(kit.credentials, text.encode(), 0o600))
    return found


def installed(kit: Kit) -> tuple[str, ...]:
    """Every path that `files` may name."""
    return (*kit.scripts, kit.config, kit.credentials, kit.cron, kit.logrotate)


def removable(kit: Kit) -> tuple[str, ...]:
    """Every path of this project's own that an installation may have made, the schedule first."""
    return (kit.cron, kit.config, kit.credentials, kit.logrotate, kit.checked, kit.images)


def config(entry: HostEntry, inventory: Inventory, secrets: Secrets) -> bytes:
    """The settings file of a host's script: shell assignments, every value quoted."""
    from fabfile.vault.project_identity import project_of
    from fabfile.vault.reading import AWS_ACCESS_KEY_ID

    kit, backup = kit_of(entry, inventory), inventory.backup
    settings = {
        "PROJECT": inventory.project,
        "PROJECT_ID": project_of(inventory, secrets).id,
        "S3_BUCKET": backup.bucket,
        "AWS_REGION": backup.region,
        "S3_ENDPOINT_URL": backup.node_endpoint_url,
        "SSE": backup.encryption,
        "SSE_KMS_KEY_ID": backup.kms_key_id,
    }
    if kit.of_database:
        settings |= _of_database(inventory)
        # Where it is not named after a project, the script knows.
        settings |= {"IMAGES_FILE": kit.images} if kit.project else {}
    else:
        settings |= _of_attachments(entry, inventory, kit)
    if secrets.get(AWS_ACCESS_KEY_ID) is not None:
        settings["AWS_SHARED_CREDENTIALS_FILE"] = kit.credentials
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in settings.items()]
    head = f"# Settings of {kit.name}.sh, made by 'inv backup.install' from hosts.yaml.\n"
    return (head + "".join(lines)).encode()


def _of_database(inventory: Inventory) -> dict[str, str]:
    backup, postgres = inventory.backup, inventory.postgres
    return {
        "PG_DB": " ".join(postgres.databases),
        "PG_USER": postgres.user,
        "DB_SERVICE_NAME": postgres.service,
        "BACKUP_DIR": backup.directory,
        "KEEP_LOCAL_DAYS": str(backup.keep_local_days),
        "COMPRESSION": backup.compression,
        "COUNT_ROWS": "yes" if backup.count_rows else "no",
        "DRILL_MEMORY": f"{backup.drill_memory // 2**20}m",
        "DRILL_CPUS": str(backup.drill_cpus),
    }


def _of_attachments(entry: HostEntry, inventory: Inventory, kit: Kit) -> dict[str, str]:
    return {"APP_STACK": inventory.app.stack, "NODE": entry.node, "STATE_DIR": kit.state_dir}


def cron_entry(kit: Kit, inventory: Inventory) -> bytes:
    """The /etc/cron.d file with the schedules of hosts.yaml."""
    backup = inventory.backup
    entry = _from_template("backup.cron", SCHEDULE=backup.schedule, SCRIPT=kit.command, LOG=kit.log)
    if not kit.of_database or not backup.drill_schedule:
        return entry
    drills = "; ".join(_drill(name, kit, inventory) for name in inventory.postgres.databases)
    return entry + f"{backup.drill_schedule} root ({drills}) >>{kit.log} 2>&1\n".encode()


def _drill(database: str, kit: Kit, inventory: Inventory) -> str:
    words = [RESTORE, "drill", "--database", database, "--latest"]
    words += ["--config", kit.config] if kit.project else []
    if inventory.backup.drill_with_app and database == inventory.postgres.database:
        words += ["--app", inventory.app.image]
    # cron takes a % for the end of the line.
    return shlex.join(words).replace("%", r"\%")


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
        return RemoteFile(path, _content(name), 0o755)
    return RemoteFile(path, _content(f"parts/{name}"), 0o644)


@cache
def _content(name: str) -> bytes:
    return (SCRIPTS / name).read_bytes()


def _from_template(name: str, **values: str) -> bytes:
    text = _content(name).decode()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text.encode()
