"""Asking the running PostgreSQL: running SQL in its container, which cluster it is, what it has.

psql runs in the container, over its local socket. Where the server asks for a password there
too, the ones given are tried; they travel through stdin.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.remote_command import Command
from fabfile.swarm import data_volume
from fabfile.swarm.state import Cluster

_IDENTIFIER = "SELECT system_identifier FROM pg_control_system()"
_NAMES = (
    "SELECT 'database ' || datname FROM pg_database UNION ALL SELECT 'role ' || rolname "
    "FROM pg_roles WHERE rolcanlogin"
)


ASKED = "swarmkeep: asked for a password"

# Reads one line of SQL, then passwords. What the shell's own printf prints is in no list of
# processes; the environment of psql is for root and its own user only.
_INSIDE = f"""
unset PGPASSWORD
IFS= read -r sql
until psql -XAtqwc 'SELECT 1' </dev/null >/dev/null 2>&1; do
  IFS= read -r PGPASSWORD || break
  export PGPASSWORD
done
[ -z "${{PGPASSWORD:-}}" ] || echo {shlex.quote(ASKED)}
printf '%s\\n' "$sql" | psql -XAtqw -v ON_ERROR_STOP=1
"""


@dataclass(frozen=True)
class Names:
    """The databases and roles that the running PostgreSQL has."""

    databases: frozenset[str]
    roles: frozenset[str]


def system_identifier(fleet: Fleet, cluster: Cluster, passwords: Sequence[str]) -> str:
    """The identifier that the running PostgreSQL's cluster was given when it was made.

    Raises SwarmkeepError if it does not answer.
    """
    lines = _ask(fleet, cluster, passwords, _IDENTIFIER)
    if not lines or not lines[-1].isdecimal():
        raise SwarmkeepError(
            f"{fleet.inventory.postgres.service}: PostgreSQL does not say which cluster it is",
            hint="see its log: docker service logs " + fleet.inventory.postgres.service,
        )
    return lines[-1]


def names(fleet: Fleet, cluster: Cluster, passwords: Sequence[str]) -> Names | None:
    """The databases and roles of the running PostgreSQL; None if it cannot be asked."""
    try:
        lines = _ask(fleet, cluster, passwords, _NAMES)
    except SwarmkeepError:
        return None
    pairs = [line.partition(" ")[::2] for line in lines]
    return Names(
        frozenset(name for what, name in pairs if what == "database"),
        frozenset(name for what, name in pairs if what == "role"),
    )


def running(fleet: Fleet, cluster: Cluster) -> tuple[Host, str]:
    """The host and the container of the running PostgreSQL.

    Raises SwarmkeepError if there is none on a host of hosts.yaml.
    """
    service = cluster.service(fleet.inventory.postgres.service)
    names = {node.id: node.name for node in cluster.nodes}
    for task in cluster.tasks_of(service) if service else ():
        entry = fleet.inventory.host_of_node(names.get(task.node_id, ""))
        if entry and task.state == "running" and task.desired == "running":
            return fleet.host(entry), task.container_id
    raise SwarmkeepError(
        f"{fleet.inventory.postgres.service}: has no running task on a host of hosts.yaml",
        hint="see: inv status",
    )


def run_sql(
    container: str,
    user: str,
    database: str,
    sql: str,
    passwords: Sequence[str],
    *,
    changes: bool = True,
) -> Command:
    """The command that runs a line of SQL in a container; neither is in its arguments."""
    settings = {
        "PGUSER": user,
        "PGDATABASE": database,
        "PGCONNECT_TIMEOUT": "10",
        # Nothing of this may wait for long while the app is being restarted, nor call what
        # somebody else has made in the database under the name of PostgreSQL's own.
        "PGOPTIONS": "-c statement_timeout=10s -c search_path=pg_catalog",
        "LC_ALL": "C",
    }
    words = " ".join(f"-e {shlex.quote(f'{key}={value}')}" for key, value in settings.items())
    script = (
        f"docker exec -i {words} {shlex.quote(container)} timeout 60 sh -c {shlex.quote(_INSIDE)}"
    )
    return Command(script, "".join(f"{line}\n" for line in (sql, *passwords)).encode(), changes)


def _ask(fleet: Fleet, cluster: Cluster, passwords: Sequence[str], sql: str) -> list[str]:
    """The lines that a query brings, asked as the user that the running service was made with."""
    host, container = running(fleet, cluster)
    postgres = fleet.inventory.postgres
    service = cluster.service(postgres.service)
    made_with = data_volume.environment(service.spec) if service else {}
    user = made_with.get("POSTGRES_USER", postgres.user)
    command = run_sql(container, user, "postgres", sql, passwords, changes=False)
    said = host.check(command, "asking PostgreSQL").stdout.splitlines()
    return [line for line in said if line != ASKED]


def quoted_name(text: str) -> str:
    """A name as SQL wants it."""
    return '"' + text.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text as SQL wants it."""
    return "'" + text.replace("'", "''") + "'"
