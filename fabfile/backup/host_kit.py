"""What one kind of backup is called on its hosts: the database's on role=db hosts, NocoDB's
attachments on role=app hosts. Paths only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory

COMMON = "/usr/local/lib/backup-common.sh"
SHARED = (
    COMMON,
    *(f"/usr/local/lib/backup-{part}.sh" for part in ("bucket", "report", "encryption")),
    "/usr/local/lib/access-docker.sh",
)
"""What the scripts of both kits share."""
RESTORE = "/usr/local/bin/restore-pg.sh"
"""The way back, which the schedule uses for drills; the parts that it sources lie with COMMON."""


METRICS = "/var/lib/prometheus/node-exporter"
"""Where Debian's node_exporter looks for textfiles (METRICS_FOLDER of backup-report.sh)."""
WAL = "/usr/local/bin/wal-pg.sh"
"""Archives WAL and makes base backups, for point-in-time recovery."""
UPGRADE = "/usr/local/bin/upgrade-pg.sh"
"""Copies all databases into a server of another major version."""
REINDEX = "/usr/local/bin/reindex-pg.sh"
"""Finds collations that have changed, and builds the indexes on them anew."""


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
        return (self.script, *SHARED, *self.others)

    def metrics(self, directory: str) -> tuple[str, ...]:
        """The textfiles of its runs, as patterns for a shell; `directory`: "" for Debian's."""
        jobs = ("backup", "drill", "wal", "base", "replay") if self.of_database else ("files",)
        folder, project = directory or METRICS, f"-{self.project}" if self.project else ""
        return tuple(f"{folder}/swarmkeep-{job}{project}.*.prom" for job in jobs)

    def wal_started(self, directory: str) -> str:
        """What is there once WAL has been archived on a host; `directory` is that of its dumps."""
        return f"{directory}/.wal/cap"

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
    def pings(self) -> str:
        """The addresses of its pings, from the vault."""
        return f"/etc/{self.named}.ping"

    @property
    def identity(self) -> str:
        """The identity for drills by cron, from the vault."""
        return f"/etc/{self.named}.identity"

    @property
    def apps(self) -> str:
        """How a drill starts other apps than NocoDB."""
        return f"/etc/{self.named}.apps"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What comes from the vault, as far as the vault has it."""
        of_all = (self.credentials, self.pings)
        return (*of_all, self.identity, self.apps) if self.of_database else of_all

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
    (
        RESTORE,
        WAL,
        UPGRADE,
        REINDEX,
        "/usr/local/lib/backup-set.sh",
        *(f"/usr/local/lib/restore-{part}.sh" for part in ("set", "load", "drill", "replay")),
        *(f"/usr/local/lib/wal-{part}.sh" for part in ("base", "segments")),
        *(f"/usr/local/lib/upgrade-{part}.sh" for part in ("describe", "fence", "copy")),
    ),
)
ATTACHMENTS = Kit(
    "backup-files",
    "ready: the bucket can be written, NocoDB's files are here",
    "the bucket can be written; NocoDB has never run here, so there are no files",
    ("/usr/local/lib/files-encrypted.sh",),
)


KITS = (DATABASE, ATTACHMENTS)


def hosts(inventory: Inventory) -> tuple[HostEntry, ...]:
    """The hosts that take part: those of the database, then those of the attachments."""
    app = inventory.with_role("app") if inventory.backup.files else ()
    return inventory.with_role("db") + app


def kit_of(entry: HostEntry, inventory: Inventory) -> Kit:
    """The kit of a host, by its role."""
    kit = DATABASE if entry.role == "db" else ATTACHMENTS
    return replace(kit, project=inventory.project)
