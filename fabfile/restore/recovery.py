"""Is there anything here that a recovery would be in the way of, and which sets come back.

A recovery is for a database that is gone: one that is there, with data in it, is not touched, and
the way is another (inv backup.restore --replace).
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fabfile.backup import host_install, host_run
from fabfile.backup.sets import BackupSet
from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError, UnreachableError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Inventory
from fabfile.deploy import observation
from fabfile.deploy.observation import Look
from fabfile.deploy.stacks import Wanted
from fabfile.restore.restore_script import NO_IDENTITY
from fabfile.rotation.role_password import RolePassword, find
from fabfile.ssh.fleet import Fleet, Host, Outcome, values
from fabfile.swarm import placement
from fabfile.swarm.postgres import run_sql
from fabfile.swarm.state import Cluster

if TYPE_CHECKING:
    from fabfile.vault.backup_identity import Identity

DIFFERENT, TRANSFER_FAILED = 19, 18
"""Exit codes of backup-files.sh: files and objects differ; no bucket."""


# One line of SQL each. Views of extensions and the like are no data.
_DATABASES = "SELECT datname FROM pg_database WHERE NOT datistemplate"
_TABLES = (
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' "
    "AND n.nspname <> 'information_schema'"
)
# NocoDB keeps what people put in in a schema for each base; its own tables are in public.
_FRESH_NOCODB = (
    "SELECT to_regclass('public.nc_users_v2') IS NOT NULL AND NOT EXISTS "
    "(SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind "
    "IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN "
    "('public', 'information_schema'))"
)
_USERS = "SELECT count(*) FROM public.nc_users_v2"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    """What a recovery finds.

    `moves`: PostgreSQL starts on a node without the old data. `replaced`: databases whose place
    must be taken by exchange, since NocoDB uses them or has begun anew in them. `kept`: those with
    data in them, which stay as they are, and how many tables each has.
    """

    moves: bool
    replaced: frozenset[str]
    kept: Mapping[str, int] = field(default_factory=dict)


def look(fleet: Fleet, wanted: Sequence[Wanted]) -> Look:
    """Look at the cluster; where PostgreSQL is just coming up, once it has."""
    end = time.monotonic() + observation.COMING_UP_SECONDS
    while True:
        seen = observation.look(fleet, wanted)
        if not observation.coming_up(fleet.inventory, seen.cluster) or time.monotonic() > end:
            return seen
        time.sleep(observation.POLL_SECONDS)


def check_versions(inventory: Inventory, sets: Mapping[str, BackupSet]) -> None:
    """Raise ConfigError if a set is of a newer PostgreSQL than hosts.yaml wants: that cannot
    read it, and would leave an empty cluster of the old version behind.
    """
    wanted = inventory.postgres.major
    for name, one in sets.items():
        if one.manifest and one.manifest.major > wanted:
            raise ConfigError(
                f"set {one.stamp} of {name} is of PostgreSQL {one.manifest.major}, images.postgres "
                f"in hosts.yaml is {wanted}, which cannot read it; nothing was changed",
                hint=f"set images.postgres to {one.manifest.major} or newer, then run this again",
            )


def survey(fleet: Fleet, seen: Look, passwords: list[Secret]) -> Site:
    """See what data is in the way. Raises SwarmkeepError if there is nothing to recover, or if
    that cannot be seen.
    """
    cluster, postgres = seen.cluster, fleet.inventory.postgres
    apps = {name: fleet.inventory.app_of(name) for name in postgres.databases}
    used = frozenset(
        name
        for name, role in apps.items()
        if role and cluster.service(fleet.inventory.app_service(role))
    )
    service = cluster.service(postgres.service)
    tasks = cluster.tasks_of(service) if service else ()
    # Of a node that is down Swarm goes on to say what it heard last: a task that runs.
    if any(task.state == "running" and task.desired == "running" for task in tasks):
        return _of_running(fleet, cluster, passwords, used)
    _check_node(fleet.inventory, seen)
    # A host that does not answer is no hindrance: it may be the one that was lost.
    for one in seen.surveys["db"]:
        if one.value and one.value.has_volume:
            raise SwarmkeepError(
                f"{postgres.stack}: its volume is on {one.entry.name}, but PostgreSQL does not "
                "run there, so what is in it cannot be seen; nothing was changed",
                hint="inv deploy-db starts it; if the volume is known to be lost: docker volume "
                f"rm {postgres.volume_name} on {one.entry.name}, then run this again",
            )
    return Site(moves=True, replaced=used)


def restore_files(
    fleet: Fleet, say: Say, identity: Identity | None = None, others: Sequence[str] = ()
) -> None:
    """Fetch NocoDB's attachments onto the app hosts that lack them, and the files in the volumes of
    `others`; one host's failure keeps no other from having them, nor one volume's. `identity` reads
    those that are encrypted.

    Raises SwarmkeepError with the host's name; what has arrived stays, and a second run goes on.
    """
    stack = fleet.inventory.app.stack
    # A script that knows of no other volume has no such option.
    options = {f"{stack}_data": f" --volume {stack}_data" if others else ""}
    options |= {name: f" --volume {shlex.quote(name)}" for name in others}
    errors: list[SwarmkeepError] = []
    for volume, option in options.items():
        try:
            _restore_volume(fleet, say, identity, volume, option)
        except SwarmkeepError as error:
            errors.append(error)
    for one in errors[:-1]:
        say(f"warning: {one.message}; next: {one.hint}")
    if errors:
        raise errors[-1]


def _restore_volume(
    fleet: Fleet, say: Say, identity: Identity | None, volume: str, option: str
) -> None:
    outcomes: list[Outcome[bool]] = []
    for entry in fleet.inventory.with_role("app"):
        try:
            outcomes.append(Outcome(entry, _restore_on(fleet.host(entry), say, identity, option)))
        except SwarmkeepError as error:
            outcomes.append(Outcome(entry, error=error))
    brought = values(outcomes)
    if not any(brought):
        app = next((a for a in fleet.inventory.apps if volume.startswith(f"{a.stack}_")), None)
        stack, name = (app.stack, app.name) if app else (fleet.inventory.app.stack, "")
        raise SwarmkeepError(
            f"{stack}: no app host has the volume {volume}, so none of its files came back",
            hint=f"it is made where the app runs first: {f'inv deploy-app {name}'.rstrip()}; then: "
            "inv backup.get-files",
        )


def _restore_on(host: Host, say: Say, identity: Identity | None, option: str) -> bool:
    """Fetch a volume's files onto a host. False if it has none: the app never ran there."""
    secret = identity.private.reveal().encode() if identity else b""
    options = ("--restore --identity" if identity else "--restore") + option
    code = host_run.run(
        host, lambda line: say(f"{host.name}: {_message(line)}"), options, stdin=secret
    )
    if code in (0, host_install.NO_CONTAINER):
        return code == 0
    kind: type[SwarmkeepError] = {
        DIFFERENT: CheckFailedError,
        TRANSFER_FAILED: UnreachableError,
        NO_IDENTITY: ConfigError,
    }.get(code, SwarmkeepError)
    raise kind(
        f"{host.name}: the attachments did not all come back",
        hint="see the line above; then: inv backup.get-files",
    )


def _message(line: str) -> str:
    """A line of the log without its time, level and run."""
    return line.partition(" run=")[2].partition(" ")[2] or line


def _check_node(inventory: Inventory, seen: Look) -> None:
    """Raise SwarmkeepError if the node that PostgreSQL is to run on is down."""
    with_volume = [one.entry for one in seen.surveys["db"] if one.value and one.value.has_volume]
    host = placement.data_host(inventory, seen.cluster, with_volume, move=True)
    node = seen.cluster.node(host.node)
    if node is None or node.state == "ready":
        return
    raise SwarmkeepError(
        f"{inventory.postgres.stack}: is to run on {host.name}, whose node {node.name} is "
        f"{node.state}; nothing was changed",
        hint="bring that machine up, and its data may be there still; if it is lost: 'docker node "
        f"rm --force {node.name}' on a manager, the new machine into hosts.yaml (under the same "
        "name, or named in db.data_host), inv swarm.init, then run this again",
    )


def _of_running(
    fleet: Fleet, cluster: Cluster, passwords: list[Secret], used: frozenset[str]
) -> Site:
    """What there is in the databases of the running server. SwarmkeepError if all have data."""
    postgres = fleet.inventory.postgres
    role = find(fleet, cluster, passwords)
    found = {name: _look_into(role, name) for name in postgres.databases}
    kept = {name: tables for name, (tables, begun) in found.items() if tables and not begun}
    if len(kept) < len(found):
        begun = {name for name, (_, begun) in found.items() if begun}
        return Site(moves=False, replaced=used | begun, kept=kept)
    there = ", ".join(f"{name} with {tables} tables" for name, tables in kept.items())
    raise SwarmkeepError(
        f"{role.host.name}: {postgres.stack} has its data ({there}): there is nothing to recover, "
        "and nothing was changed",
        hint="to go back to a backup: inv backup.restore --replace; to end a recovery that was "
        "cut off after its restore: inv deploy-app backup.get-files",
    )


def _look_into(role: RolePassword, database: str) -> tuple[int, bool]:
    """How many tables a database has (0 where it is not there), and whether all of them are
    those of a NocoDB that found it empty and has begun anew: nobody has signed up.
    """

    def ask(sql: str, where: str) -> list[str]:
        passwords = [password.reveal() for password in role.passwords]
        command = run_sql(role.container, role.user, where, sql, passwords, changes=False)
        said = role.host.check(command, f"PostgreSQL: looking into {where}").stdout
        return [line for line in said.splitlines() if not line.startswith("swarmkeep: ")]

    if database not in ask(_DATABASES, "postgres"):
        return 0, False
    tables = int(ask(_TABLES, database)[-1])
    begun = tables > 0 and ask(_FRESH_NOCODB, database)[-1] == "t"
    return tables, begun and ask(_USERS, database)[-1] == "0"
