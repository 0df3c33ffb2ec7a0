"""What hosts.yaml says of backups: where they go, what a good one is, how long they are kept."""

from __future__ import annotations

from dataclasses import dataclass

PING_SERVICES = ("healthchecks", "cronitor", "uptime-kuma")
"""What watches for pings: each wants them in a form of its own."""


@dataclass(frozen=True)
class Retention:
    """How many sets prune keeps: of the newest days, weeks, months and years that have one."""

    daily: int
    weekly: int
    monthly: int
    yearly: int
    minimum: int
    """Fewer sets than this are never left."""


@dataclass(frozen=True)
class Backup:
    """Where backups go and what a good one is."""

    bucket: str
    region: str
    schedule: str
    directory: str
    keep_local_days: int
    compression: str
    max_age: int
    min_size: int
    endpoint_url: str
    """"" for AWS itself."""
    node_endpoint_url: str
    """The same store as the nodes see it."""
    count_rows: bool
    """Whether every table's rows are counted for the manifest."""
    files: bool
    """Whether the app hosts back up NocoDB's attachments."""
    encryption: str
    """How the bucket encrypts: "", "AES256" or "aws:kms"."""
    kms_key_id: str
    drill_schedule: str
    """"" for no drills by cron."""
    drill_with_app: bool
    drill_memory: int
    """Bytes that a drill's PostgreSQL may use, and its NocoDB as many."""
    drill_cpus: int
    max_drill_age: int
    """0: verify does not ask when the last good drill was."""
    retention: Retention
    profile: str
    """The team member's own AWS profile; "" for the default chain."""
    metrics_directory: str = ""
    """Where the nodes write node_exporter's textfiles; "": Debian's folder, if it is there."""
    ping: str = ""
    """Which service the pings of each run are for: one of PING_SERVICES, "" for none."""
    ping_file: str = ""
    """A file on the nodes that somebody else keeps, with the pings' addresses; "": the vault's."""
    project: str = ""
    """The project's name, with which all its keys begin; "" for none."""
    pitr: bool = False
    """Whether WAL and base backups are kept, too, for point-in-time recovery."""
    wal_tick: int = 60
    """Seconds from one upload of WAL to the next."""
    base_schedule: str = "45 1 * * *"
    max_base_age: int = 50 * 3600
    max_slot_wal: int = 10 * 2**30
    """Bytes of WAL that PostgreSQL keeps at most for what is not archived yet."""
    incremental_from: int = 10 * 2**30
    """Bytes of all databases from which base backups are incremental (PostgreSQL 17); 0: never."""
    pitr_window: int = 7 * 86400
    """Seconds that one can at least go back; what is older may be pruned."""
    recipients: tuple[str, ...] = ()
    """Whom backups are encrypted for before they leave the node; nobody: they are not."""
    manifest: str = "clear"
    """Whether manifests name tables and settings to whoever reads the bucket: clear, encrypted."""
    mode: str = "host"
    """Whether scripts and cron of the hosts make it, or containers: host, container."""
    stack: str = "backupstack"
    """The stack of those containers."""
    image: str = ""
    """Their image; "": built on the db host."""
    timezone: str = "UTC"
    """Of the schedules, in a container; on a host they are in the host's."""
    drill_identity: bool = False
    """Whether the db hosts have an identity, with which drills by cron read encrypted sets."""

    @property
    def prefix(self) -> str:
        """What all keys begin with: "" or "project/"."""
        return f"{self.project}/" if self.project else ""

    @property
    def folders(self) -> tuple[str, str]:
        """What the keys of all backups begin with: the databases', the attachments'."""
        return (f"{self.prefix}postgres/", f"{self.prefix}files/")
