"""Is there anything here that a recovery would be in the way of, and which sets come back.

A recovery is for a database that is gone: where one is there, with data in it, nothing is
touched and the way is another (inv backup.restore --replace).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabfile import backup_host, preflight
from fabfile.errors import CheckFailedError, SwarmkeepError, UnreachableError
from fabfile.preflight import Look
from fabfile.role_password import find, run_sql
from fabfile.secret import Secret
from fabfile.stacks import Wanted
from fabfile.swarm import Cluster
from fabfile.transport import Fleet

DIFFERENT, TRANSFER_FAILED = 19, 18
"""Exit codes of backup-files.sh: files and objects differ; no bucket."""

COMING_UP_SECONDS = 60
"""How long a PostgreSQL that is starting is waited for."""
POLL_SECONDS = 0.5
_COMING = frozenset({"assigned", "accepted", "preparing", "ready", "starting"})

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
    must be taken by exchange, since NocoDB uses them or has begun anew in them.
    """

    moves: bool
    replaced: frozenset[str]


def look(fleet: Fleet, wanted: Sequence[Wanted]) -> Look:
    """Look at the cluster; where PostgreSQL is just coming up, once it has."""
    end = time.monotonic() + COMING_UP_SECONDS
    while True:
        seen = preflight.look(fleet, wanted)
        service = seen.cluster.service(fleet.inventory.postgres.service)
        states = {task.state for task in seen.cluster.tasks_of(service)} if service else set()
        if "running" in states or not states & _COMING or time.monotonic() > end:
            return seen
        time.sleep(POLL_SECONDS)


def survey(fleet: Fleet, seen: Look, passwords: list[Secret]) -> Site:
    """See that there is no data in the way. Raises SwarmkeepError if there is, or may be."""
    cluster, postgres = seen.cluster, fleet.inventory.postgres
    app = cluster.service(f"{fleet.inventory.app.stack}_nocodb")
    used = frozenset([postgres.database] if app else [])
    service = cluster.service(postgres.service)
    running = [t for t in cluster.tasks_of(service) if t.state == "running"] if service else []
    if running:
        begun = {name for name in postgres.databases if _begun(fleet, cluster, name, passwords)}
        return Site(moves=False, replaced=used | begun)
    # A host that does not answer is no hindrance: it may be the one that was lost.
    for one in seen.surveys["db"]:
        if one.value and one.value.has_volume:
            raise SwarmkeepError(
                f"{postgres.stack}: its volume is on {one.entry.name}, but PostgreSQL does not "
                "run there, so what is in it cannot be seen; nothing was changed",
                hint="inv deploy-db starts it; if the volume is known to be lost: docker volume "
                f"rm {postgres.stack}_pgdata on {one.entry.name}, then run this again",
            )
    return Site(moves=True, replaced=used)


def restore_files(fleet: Fleet, say: Say) -> None:
    """Fetch NocoDB's attachments onto the app hosts that lack them.

    Raises SwarmkeepError with the host's name; what has arrived stays, and a second run goes on.
    """
    for entry in fleet.inventory.with_role("app"):
        code = backup_host.run(
            fleet.host(entry),
            lambda line, name=entry.name: say(f"{name}: {_message(line)}"),  # type: ignore[misc]
            "--restore",
        )
        # A host on which NocoDB does not run has no volume.
        if code in (0, backup_host.NO_CONTAINER):
            continue
        kind = {DIFFERENT: CheckFailedError, TRANSFER_FAILED: UnreachableError}.get(
            code, SwarmkeepError
        )
        raise kind(
            f"{entry.name}: the attachments did not all come back",
            hint="see the line above; then: inv backup.get-files",
        )


def _message(line: str) -> str:
    """A line of the log without its time, level and run."""
    return line.partition(" run=")[2].partition(" ")[2] or line


def _begun(fleet: Fleet, cluster: Cluster, database: str, passwords: list[Secret]) -> bool:
    """Whether a database of the running server has tables, but no data yet: a NocoDB that found
    it empty has made its own, and nobody has signed up. Raises SwarmkeepError if it has data.
    """
    role = find(fleet, cluster, passwords)

    def ask(sql: str, where: str) -> list[str]:
        command = run_sql(
            role.container,
            role.user,
            where,
            sql,
            [password.reveal() for password in passwords],
            changes=False,
        )
        said = role.host.check(command, f"PostgreSQL: looking into {where}").stdout
        return [line for line in said.splitlines() if not line.startswith("swarmkeep: ")]

    if database not in ask(_DATABASES, "postgres"):
        return False
    tables = int(ask(_TABLES, database)[-1])
    if tables == 0:
        return False
    if ask(_FRESH_NOCODB, database)[-1] == "t" and ask(_USERS, database)[-1] == "0":
        return True
    raise SwarmkeepError(
        f"{role.host.name}: database {database} is there and has {tables} tables: there is nothing "
        "to recover, and nothing was changed",
        hint="to go back to a backup: inv backup.restore --replace; to end a recovery that was "
        "cut off after its restore: inv deploy-app backup.get-files",
    )
