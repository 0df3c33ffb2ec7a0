"""The live database and NocoDB of the lab, looked at from outside the product."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fabfile.errors import SwarmkeepError
from lab import demo
from lab.model import Lab
from tests.e2e.conftest import container_of, docker

DB, APP = "dbstack_root_db", "appstack_nocodb"


def sql(lab: Lab, text: str, database: str = "postgres") -> str:
    """Run SQL in the live server and return what it answers."""
    container = container_of(lab, "db1", DB)
    return docker(
        lab, "db1", "exec", container, "psql", "-XAtq", "-U", "nocodb", "-d", database, "-c", text
    )


def databases(lab: Lab) -> set[str]:
    """The databases that are not PostgreSQL's own."""
    found = sql(lab, "SELECT datname FROM pg_database WHERE NOT datistemplate")
    return set(found.split()) - {"postgres"}


def named(lab: Lab, start: str) -> list[str]:
    """The databases whose names begin like this."""
    return sorted(name for name in databases(lab) if name.startswith(start))


def eventually(what: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so, for at most so long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.5)


def nocodb_shows(lab: Lab, rows: list[dict[str, Any]]) -> bool:
    """Whether NocoDB's own API shows these rows."""
    try:
        return bool(demo.records(lab) == rows)
    except (SwarmkeepError, OSError):
        return False
