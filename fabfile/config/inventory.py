"""What hosts.yaml says, as frozen dataclasses. config/hosts_file.py reads the file.

Durations are seconds, sizes are bytes, paths are absolute.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from fabfile.config.apps import OtherApp
from fabfile.config.backup import Backup
from fabfile.config.proxy import Proxy

ROLE_LABEL = "role"
"""The node label of the project without a name; others add theirs: see Inventory.role_label."""
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
    def data_stacks(self) -> tuple[str, ...]:
        """The names of the stacks that have data: the database's and every app's."""
        return (*self.stacks, *(one.stack for one in self.apps))

    @property
    def running_stacks(self) -> tuple[str, ...]:
        """The names of the stacks that should run, as this file says."""
        backup = (self.backup.stack,) if self.backup.mode == "container" else ()
        proxy = (self.proxy.stack,) if self.proxy.hosts else ()
        return (*self.data_stacks, *backup, *proxy)

    @property
    def every_stack(self) -> tuple[str, ...]:
        """The names of all stacks that may be ours: the backup's, the proxy's, every app's."""
        return (*self.data_stacks, self.backup.stack, self.proxy.stack)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names that the proxy answers for: NocoDB's, then the other apps'."""
        found = (self.app.domain, *(one.domain for one in self.apps))
        return tuple(domain for domain in found if domain)

    def without_app_databases(self) -> Inventory:
        """The same with those databases only that pg_db names, not those of apps beside NocoDB."""
        others = {name for one in self.apps for name in one.databases}
        mine = tuple(name for name in self.postgres.databases if name not in others)
        return replace(self, postgres=replace(self.postgres, databases=mine))

    def app_of(self, database: str) -> str:
        """The app whose database this is, as commands call it: "app" for NocoDB, "" for none."""
        if database == self.postgres.database:
            return "app"
        return next((one.name for one in self.apps if database in one.databases), "")

    def app_service(self, role: str) -> str:
        """The full name of the main service of NocoDB ("app") or of an app beside it."""
        other = self.other_app(role)
        return other.service_name if other else f"{self.app.stack}_nocodb"

    def min_size_of(self, database: str) -> int:
        """How many bytes a good set of a database has at least: backup.min_size is about those of
        pg_db, an app beside NocoDB may have less.
        """
        return 0 if self.other_app(self.app_of(database)) else self.backup.min_size

    @property
    def files_folders(self) -> tuple[str, ...]:
        """What the bucket calls the files of every volume that is backed up, NocoDB's first."""
        return tuple(of for name in self.postgres.databases for of in self.files_of(name))

    def files_of(self, database: str) -> dict[str, str]:
        """The volumes that are backed up beside a database: what the bucket calls their files, and
        "" for NocoDB's attachments, else the volume's name.
        """
        if not self.backup.files:
            return {}
        if database == self.postgres.database:
            return {self.app.stack: ""}
        mine = [one for one in self.apps if one.databases[0] == database]
        names = [one.volume_name(volume) for one in mine for volume in one.volumes]
        return {name: name for name in names}

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
