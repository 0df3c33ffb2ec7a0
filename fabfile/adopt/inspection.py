"""The source as Docker has it: NocoDB's containers, its PostgreSQL's, and what else is there.

Nothing is changed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fabfile.adopt import source as sources
from fabfile.adopt.containers import Container, containers_of
from fabfile.adopt.server import Server, reached
from fabfile.adopt.source import Connection, Source
from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.ssh.fleet import Fleet, Host, values
from fabfile.ssh.remote_command import Command
from fabfile.swarm.docker_commands import STACK_LABEL

_COMPOSE_FOLDER = "com.docker.compose.project.working_dir"
SQLITE_HINT = (
    "NocoDB's own way to move bases from SQLite to PostgreSQL is by hand; docs/adopt.md tells why "
    "Swarmkeep does not, and how"
)


@dataclass(frozen=True)
class Found:
    """The source, looked at."""

    source: Source
    app: Container
    workers: tuple[Container, ...]
    """NocoDB containers beside it, which are stopped with it."""
    database: Container | None
    """The one with its PostgreSQL; None where that is none which is seen there."""
    others: tuple[Container, ...]
    connection: Connection
    settings: Mapping[str, Secret]
    left: tuple[str, ...]
    """Names of settings that are not taken."""
    version: str
    """What NocoDB says of itself; "" if it does not."""
    data: str
    """The folder with the attachments, on the app's host; "" for none."""

    @property
    def public_url(self) -> str:
        """NocoDB's public address, "" where none is set."""
        return self.app.environment.get("NC_PUBLIC_URL", "")

    @property
    def server_name(self) -> str:
        """What a person calls its PostgreSQL."""
        if self.database is None:
            return f"{self.connection.host}:{self.connection.port}"
        return f"{self.database.what} on {self.database.host.name}"

    @contextmanager
    def server(self, fleet: Fleet) -> Iterator[Server]:
        """The source's PostgreSQL, for the length of a block. Raises SwarmkeepError."""
        if self.database is None:
            host, image = fleet.host(self.app.host), fleet.inventory.postgres.image
            with reached(host, self.connection, image) as server:
                yield server
            return
        environment = self.database.environment
        user = environment.get("POSTGRES_USER") or "postgres"
        yield Server(fleet.host(self.database.host), self.database.name, user)


def host_entry(inventory: Inventory, name: str) -> HostEntry:
    """Given a host of hosts.yaml, or an SSH address ([USER@]ADDRESS), return it."""
    known = next((host for host in inventory.hosts if host.name == name), None)
    if known:
        return known
    user, _, address = name.rpartition("@")
    return HostEntry(
        name=address,
        address=address,
        port=22,
        user=user or inventory.ssh.user,
        swarm="",
        role="",
        node="",
        given=frozenset({"user"} if user else ()),
    )


def look(fleet: Fleet, source: Source) -> Found:
    """Find everything out. Raises SwarmkeepError, ConfigError for what cannot be adopted."""
    inventory = fleet.inventory
    if source.kind == "stack" and source.name in inventory.stacks:
        raise ConfigError(
            f"{source}: hosts.yaml gives this name to a stack of its own",
            hint="give the new stacks other names: stacks: in hosts.yaml",
        )
    entries = inventory.hosts if source.kind == "stack" else (host_entry(inventory, source.host),)
    everything = [c for found in values(fleet.fan_out(entries, containers_of)) for c in found]
    own = [one for one in everything if _belongs(one, source)]
    containers = [one for one, _labels in own]
    apps = [c for c in containers if sources.is_nocodb(c.image, c.environment)]
    main = [c for c in apps if c.environment.get("NC_WORKER_CONTAINER", "false") != "true"]
    if not main:
        raise ConfigError(
            f"{source}: has no NocoDB"
            + (f", only {', '.join(sorted(c.what for c in containers))}" if containers else ""),
            hint="name what `docker ps` shows on its host; a stack needs its hosts in hosts.yaml",
        )
    if len({c.what for c in main}) > 1:
        names = ", ".join(sorted(c.what for c in main))
        raise ConfigError(
            f"{source}: has several NocoDBs: {names}", hint="name one: container:HOST:NAME"
        )
    if len({c.host.name for c in main}) > 1:
        raise ConfigError(
            f"{source}: its NocoDB runs on several hosts, each with files of its own",
            hint="scale it to one task, with all attachments on its host",
        )
    app = main[0]
    connection = sources.connection_of(app.environment, _files(fleet.host(app.host), app))
    if connection is None:
        raise ConfigError(
            f"{source}: this NocoDB has its data in SQLite, and only PostgreSQL is moved",
            hint=SQLITE_HINT,
        )
    database = _database([one for one, _labels in everything], connection, app, source)
    taken, left = sources.settings_of(app.environment)
    workers = tuple(c for c in apps if c.what != app.what)
    return Found(
        source,
        app,
        workers,
        database,
        tuple(c for c in containers if c not in apps and c != database),
        connection,
        {name: Secret(value) for name, value in taken.items()},
        left,
        _version(fleet.host(app.host), app),
        _data_folder(fleet.host(app.host), app),
    )


def _belongs(one: tuple[Container, Mapping[str, str]], source: Source) -> bool:
    container, labels = one
    if source.kind == "stack":
        return container.running and labels.get(STACK_LABEL) == source.name
    if source.kind == "compose":
        return str(labels.get(_COMPOSE_FOLDER, "")).rstrip("/") == source.name
    return container.name == source.name


def _database(
    containers: Sequence[Container], connection: Connection, app: Container, source: Source
) -> Container | None:
    running = [c for c in containers if c.running and not sources.is_nocodb(c.image, c.environment)]
    found = [c for c in running if connection.host in c.names]
    # A short name may be used in several stacks: the one of the same stack is meant.
    stack = app.service.rpartition("_")[0]
    found = [c for c in found if stack and c.service.startswith(f"{stack}_")] or found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(c.what for c in found))
        raise ConfigError(
            f"{source}: NocoDB's database is at {connection.host!r}, and that may be {names}",
            hint="let NC_DB name the container itself",
        )
    return None


def _files(host: Host, app: Container) -> dict[str, str]:
    """The files with NocoDB's connection, read inside its container."""
    names = ("NC_DB_JSON_FILE", "NC_DB_FILE", "DATABASE_URL_FILE")
    paths = [app.environment[name] for name in names if app.environment.get(name)]
    found = {}
    for path in paths:
        words = f"docker exec {shlex.quote(app.name)} cat -- {shlex.quote(path)}"
        found[path] = host.check(Command(words, changes=False), f"reading {path}").stdout
    return found


def _version(host: Host, app: Container) -> str:
    """What NocoDB says which version it is. It may not be able to; that is no failure."""
    ask = (
        "u=http://127.0.0.1:${PORT:-8080}/api/v1/version; if command -v wget >/dev/null; "
        'then exec wget -q -O - "$u"; fi; exec node -e "fetch(process.argv[1]).then(r => r.text())'
        '.then(t => process.stdout.write(t))" "$u"'
    )
    words = f"timeout 20 docker exec {shlex.quote(app.name)} sh -c {shlex.quote(ask)}"
    try:
        data = json.loads(host.run(Command(words, changes=False)).stdout)
        return str(data.get("currentVersion") or "")
    except (ValueError, AttributeError):
        return ""


def _data_folder(host: Host, app: Container) -> str:
    """Where the attachments are on the host: a volume, a bind mount, or the container's own layer.

    Raises SwarmkeepError where they are in the container only, and out of reach.
    """
    below = [path for path in app.mounts if path.startswith(f"{app.data}/")]
    if below:
        raise ConfigError(
            f"{app.what}: has volumes inside of {app.data}: {', '.join(sorted(below))}",
            hint=f"put all of it into one volume at {app.data} first",
        )
    above = [path for path in app.mounts if f"{app.data}/".startswith(f"{path.rstrip('/')}/")]
    if above:
        closest = max(above, key=len)
        return app.mounts[closest] + app.data.removeprefix(closest)
    name = shlex.quote(app.name)
    ask = f"docker inspect -f '{{{{.GraphDriver.Data.UpperDir}}}}' {name}"
    layer = host.check(Command(ask, changes=False), "asking Docker").stdout.strip()
    folder = f"{layer}{app.data}"
    there = host.run(Command(f"[ -d {shlex.quote(folder)} ]", changes=False)).exit_code == 0
    if there and layer.startswith("/"):
        return folder
    inside = Command(f"docker exec {name} ls -A {shlex.quote(app.data)}", changes=False)
    if host.run(inside).stdout.strip():
        raise SwarmkeepError(
            f"{app.what}: has attachments in the container itself, which cannot be read from "
            "outside",
            hint=f"copy them into a volume at {app.data} first",
        )
    return ""
