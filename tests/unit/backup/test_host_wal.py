"""wal-pg.sh on the db host, as seen from here: its words become ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fabfile.backup import host_wal
from fabfile.base.errors import SwarmkeepError
from fabfile.config import hosts_file
from fabfile.ssh.remote_command import Result
from tests.unit.s3_server import write_hosts


@pytest.fixture
def ask(tmp_path):
    """Runs an action on a host that answers with lines and an exit code."""
    inventory = hosts_file.load(write_hosts(tmp_path, "http://127.0.0.1:1", pitr=True))
    [entry] = inventory.with_role("db")
    said: list[str] = []

    def run(action: str, code: int, *lines: str) -> list[str]:
        def answer(_command, *, timeout, on_line):
            for line in lines:
                on_line(line)
            return Result("db1", code, "\n".join(lines), "")

        host = SimpleNamespace(name="db1", entry=entry, inventory=inventory, run=answer)
        host_wal.run(host, action, said.append)  # type: ignore[arg-type]
        return said

    return run


def test_what_it_logs_is_passed_on(ask):
    lines = (
        "2026-11-27T10:00:00Z INFO run=1-2 base backup complete",
        "2026-11-27T10:00:00Z WARNING run=1-2 a full one is made",
    )
    assert ask("base --full", 0, *lines) == [
        "base backup complete",
        "warning: a full one is made",
    ]


@pytest.mark.parametrize(
    ("code", "line", "message", "hint"),
    [
        (
            33,
            "2026-11-27T10:00:00Z ERROR run=1-2 has tablespaces; next: move them",
            "db1: has tablespaces",
            "move them",
        ),
        (2, "Usage: wal-pg.sh archive | base", "is of an earlier version", "inv backup.install"),
        (127, "", "is not installed", "inv backup.install"),
    ],
)
def test_why_it_failed_and_what_is_next(ask, code, line, message, hint):
    with pytest.raises(SwarmkeepError) as caught:
        ask("base --full", code, *filter(None, [line]))
    assert message in caught.value.message
    assert hint in caught.value.hint
