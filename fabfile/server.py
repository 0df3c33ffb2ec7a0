"""Asking the running PostgreSQL who it is and what it has."""

from __future__ import annotations

from collections.abc import Sequence

from fabfile import pgdata
from fabfile.cluster import Cluster
from fabfile.errors import SwarmkeepError
from fabfile.preflight_data import Names
from fabfile.role_password import ASKED, find, run_sql
from fabfile.secret import Secret
from fabfile.transport import Fleet

_IDENTIFIER = "SELECT system_identifier FROM pg_control_system()"
_NAMES = (
    "SELECT 'database ' || datname FROM pg_database UNION ALL SELECT 'role ' || rolname "
    "FROM pg_roles WHERE rolcanlogin"
)


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


def _ask(fleet: Fleet, cluster: Cluster, passwords: Sequence[str], sql: str) -> list[str]:
    """The lines that a query brings, asked as the user that the running service was made with."""
    role = find(fleet, cluster, [Secret(text) for text in passwords])
    service = cluster.service(fleet.inventory.postgres.service)
    made_with = pgdata.environment(service.spec) if service else {}
    user = made_with.get("POSTGRES_USER", role.user)
    command = run_sql(role.container, user, "postgres", sql, passwords, changes=False)
    said = role.host.check(command, "asking PostgreSQL").stdout.splitlines()
    return [line for line in said if line != ASKED]
