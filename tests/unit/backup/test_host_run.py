"""A backup by hand: the attachments begin while the database is uploaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.backup import host_run
from fabfile.base.errors import SwarmkeepError

DUMP = "INFO run=1 dumped and read back bytes=9 seconds=1, uploading"


def host(name: str, role: str) -> Any:
    inventory = SimpleNamespace(project="")
    return SimpleNamespace(name=name, entry=SimpleNamespace(role=role), inventory=inventory)


DB, APP = host("db1", "db"), host("app1", "app")


@pytest.fixture
def played(monkeypatch):
    """Plays the hosts' scripts: what each says and returns, and in which order they begin."""
    began: list[str] = []
    closed: list[bool] = []

    def play(lines: dict[str, list[str]], codes: dict[str, Any], apps=(APP,)):
        def run(one: Any, on_line: Any) -> int:
            began.append(one.name)
            for line in lines.get(one.name, []):
                on_line(line)
            code = codes[one.name]
            if isinstance(code, BaseException):
                raise code
            return code

        monkeypatch.setattr(host_run, "run", run)
        said: list[str] = []
        fleet: Any = SimpleNamespace(close=lambda: closed.append(True))
        try:
            return host_run.run_all(fleet, DB, apps, said.append), said
        finally:
            play.began, play.closed = began, closed

    return play


def test_lines_of_the_attachments_come_after_those_of_the_database(played):
    codes, said = played({"db1": [DUMP, "complete"], "app1": ["files"]}, {"db1": 0, "app1": 0})
    assert codes == [0, 0]
    assert said == [
        "db1: /usr/local/bin/backup-pg.sh", DUMP, "complete",
        "app1: /usr/local/bin/backup-files.sh", "files",
    ]  # fmt: skip


def test_a_dump_that_fails_leaves_no_attachments_out(played):
    codes, said = played({"db1": ["ERROR"]}, {"db1": 16, "app1": 0})
    assert codes == [16, 0]
    assert said[-1] == "app1: /usr/local/bin/backup-files.sh"


def test_a_host_without_files_has_no_code(played):
    codes, said = played({}, {"db1": 0, "app1": 11})
    assert codes == [0]
    assert "NocoDB has never run here" in said[-1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SwarmkeepError("lost")])
def test_after_an_interruption_nothing_begins(played, error):
    with pytest.raises(type(error)):
        played({}, {"db1": error, "app1": 0})
    assert played.began == ["db1"]
    assert played.closed == [True]


def test_one_without_attachments(played):
    assert played({}, {"db1": 0}, apps=())[0] == [0]
