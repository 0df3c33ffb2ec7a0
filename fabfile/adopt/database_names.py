"""What databases are called in the new server while a copy is not finished, and when it is undone.

The empty database steps aside for the copy, and is the sign that this is one.
"""

from __future__ import annotations

from collections.abc import Mapping

from fabfile.adopt.server import Server

ASIDE = "_before_adopt"
"""Ends the name of the empty database for as long as the copy beside it is not finished."""
NAMES = "SELECT datname FROM pg_database"
_END_SESSIONS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def unfinished(target: Server) -> list[str]:
    """The databases of a copy that is not finished."""
    said = target.sql(NAMES, "asking PostgreSQL", changes=False)
    names = [line for line in said.splitlines() if line.endswith(ASIDE)]
    return [name.removesuffix(ASIDE) for name in names]


def abandon(target: Server) -> None:
    """Remove a copy that is not finished; the empty databases are back under their names."""
    for name in unfinished(target):
        # Two commands, since none of them may run in a transaction with another.
        target.sql(f'DROP DATABASE IF EXISTS "{name}"', "removing an unfinished copy")
        target.sql(f'ALTER DATABASE "{name}{ASIDE}" RENAME TO "{name}"', "removing a copy")


def settle(target: Server) -> None:
    """The copies are the databases from now on. Raises SwarmkeepError."""
    for name in unfinished(target):
        target.sql(f'DROP DATABASE "{name}{ASIDE}"', "removing an empty database")


def set_aside(target: Server, kept: Mapping[str, str]) -> None:
    """Give databases the names under which they are kept; an empty one is in their place, the one
    from before the copy if that is still there. What is done already is not done again.
    """
    for name, new in kept.items():
        there = target.sql(NAMES, "asking PostgreSQL", changes=False).splitlines()
        if new not in there and name in there:
            # In the database itself: which it is comes from the connection.
            target.sql(_END_SESSIONS, "ending sessions", name)
            target.sql(f'ALTER DATABASE "{name}" RENAME TO "{new}"', f"setting {name} aside")
            there.remove(name)
        if name in there:
            continue
        target.sql(
            f'ALTER DATABASE "{name}{ASIDE}" RENAME TO "{name}"'
            if f"{name}{ASIDE}" in there
            else f'CREATE DATABASE "{name}"',
            f"making {name} anew",
        )
