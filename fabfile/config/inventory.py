"""What hosts.yaml says, as frozen dataclasses. config/hosts_file.py reads the file.

Durations are seconds, sizes are bytes, paths are absolute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fabfile.config.apps import OtherApp
from fabfile.config.proxy import Proxy

ROLE_LABEL = "role"
"""The node label of the project without a name; others add theirs: see Inventory.role_label."""
PING_SERVICES = ("healthchecks", "cronitor", "uptime-kuma")
"""What watches for pings: each wants them in a form of its own."""
RESOLVE_IMAGE = ("always", "changed", "never")
"""When a deploy asks the registry for an image's digest: as `docker stack deploy` calls it."""


@dataclass(frozen=True)
class Gateway:
    """The one host that others are reached through (ssh -J)."""

    address: str
    port: int
    user: str
    key: Path | None


@dataclass(frozen=True)
class Ssh:
    """How hosts are reached. `connect_timeout` is in seconds."""

    user: str
    port: int
    key: Path | None
    known_hosts: Path
    connect_timeout: int
    become: bool
    gateway: Gateway | None
    config: Path | None = None
    """The ~/.ssh/config to read for what this file leaves open; None for none."""
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """Which of user, port, key and known_hosts the file really names."""


@dataclass(frozen=True)
class HostEntry:
    """One machine. `node` is its name in the Swarm, `role` is "db", "app" or ""."""

    name: str
    address: str
    port: int
    user: str
    swarm: str
    role: str
    node: str
    advertise_addr: str = ""
    """The address (or network interface) by which the other nodes reach it; "": found out."""
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """Which of user and port the file really names."""


@dataclass(frozen=True)
class Postgres:
    """The database stack."""

    stack: str
    service: str
    """The service's full name, e.g. dbstack_root_db: also its DNS name on the network."""
    image: str
    major: int
    databases: tuple[str, ...]
    """What is backed up; the first one is NocoDB's, the last ones those of the apps beside it."""
    user: str
    data_host: str
    """Name of the host that holds the data; "" where only one host has role db."""
    endpoint_mode: str
    volume: str = "pgdata"
    """The volume of its data, by its name in the stack: each major version may have its own."""

    @property
    def database(self) -> str:
        """NocoDB's database."""
        return self.databases[0]

    @property
    def volume_name(self) -> str:
        """The volume's name in Docker."""
        return f"{self.stack}_{self.volume}"


@dataclass(frozen=True)
class App:
    """The NocoDB stack."""

    stack: str
    image: str
    replicas: int
    port: int
    port_mode: str
    endpoint_mode: str
    public_url: str
    domain: str = ""
    """The name that the proxy answers for; "" without one."""


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


NOTIFY_ON = ("failure", "recovered", "always")
NOTIFYING = (
    "adopt", "backup.verify", "backup.prune", "deploy", "deploy-app", "deploy-db", "deploy-proxy",
    "recover", "rollback", "upgrade-app", "upgrade-db",
)  # fmt: skip
"""Commands that can tell how they ended."""


@dataclass(frozen=True)
class Notify:
    """Which commands tell the vault's addresses how they ended, and when: of NOTIFY_ON."""

    on: tuple[str, ...] = ()
    commands: tuple[str, ...] = NOTIFYING


@dataclass(frozen=True)
class Vault:
    """The encrypted file, and the file that holds its password (None: ask)."""

    file: Path
    password_file: Path | None


@dataclass(frozen=True)
class Inventory:
    """Everything hosts.yaml says."""

    path: Path
    ssh: Ssh
    hosts: tuple[HostEntry, ...]
    network: str
    postgres: Postgres
    app: App
    proxy: Proxy
    backup: Backup
    vault: Vault
    deploy_timeout: int
    resolve_image: str
    registry: str = ""
    """The private registry to log in to, as docker login names it; "" for none."""
    project: str = ""
    """The project's name; "" for the one project that needs none."""
    notify: Notify = Notify()
    """Nothing is told without it."""
    project_id: str = ""
    """Its identity, for whoever cannot read the vault; "" where not given."""
    apps: tuple[OtherApp, ...] = ()
    """The applications beside NocoDB, in the order of the file."""

    @property
    def role_label(self) -> str:
        """The node label whose value is a node's role in this project."""
        return f"{ROLE_LABEL}.{self.project}" if self.project else ROLE_LABEL

    def named(self, base: str) -> str:
        """What is called `base` without a project, as this project calls it: "base-project"."""
        return f"{base}-{self.project}" if self.project else base

    @property
    def stacks(self) -> tuple[str, str]:
        """The names of both stacks: the database's, the app's."""
        return (self.postgres.stack, self.app.stack)

    @property
    def running_stacks(self) -> tuple[str, ...]:
        """The names of the stacks that should run, as this file says."""
        backup = (self.backup.stack,) if self.backup.mode == "container" else ()
        proxy = (self.proxy.stack,) if self.proxy.hosts else ()
        return (*self.stacks, *(one.stack for one in self.apps), *backup, *proxy)

    @property
    def every_stack(self) -> tuple[str, ...]:
        """The names of all stacks that may be ours: the backup's, the proxy's, every app's."""
        others = (one.stack for one in self.apps)
        return (*self.stacks, *others, self.backup.stack, self.proxy.stack)

    def other_app(self, name: str) -> OtherApp | None:
        """The application beside NocoDB of this name."""
        return next((one for one in self.apps if one.name == name), None)

    def managers(self) -> tuple[HostEntry, ...]:
        """The Swarm managers, in the order of the file."""
        return tuple(host for host in self.hosts if host.swarm == "manager")

    def with_role(self, role: str) -> tuple[HostEntry, ...]:
        """The hosts of a role, in the order of the file; "backup": those that are backed up,
        "proxy": those that the proxy runs on, an app's name: those of all apps.
        """
        if role == "proxy":
            return tuple(host for host in self.hosts if host.name in self.proxy.hosts)
        if role == "backup":
            return self.with_role("db") + (self.with_role("app") if self.backup.files else ())
        if self.other_app(role):
            return self.with_role("app")
        return tuple(host for host in self.hosts if host.role == role)

    def host_of_node(self, node: str) -> HostEntry | None:
        """The host whose Swarm node has this name."""
        return next((host for host in self.hosts if host.node == node), None)
