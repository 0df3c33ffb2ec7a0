"""inv backup.drill as people type it: which sets are drilled, and what becomes of failures."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from invoke.collection import Collection

from fabfile.backup import host_run
from fabfile.base.errors import CheckFailedError, UnreachableError
from fabfile.commands import drill as drill_command
from fabfile.restore.restore_script import Restored
from tests.unit.command_line import runner
from tests.unit.s3_server import S3Server, own_credentials, write_hosts

HOUR = timedelta(hours=1)
NAMES = ("nocodb", "second", "third")


@pytest.fixture
def server(monkeypatch, tmp_path):
    own_credentials(monkeypatch)
    with S3Server().running() as made:
        hosts = write_hosts(tmp_path, made.url, databases=NAMES)
        monkeypatch.setenv("SWARMKEEP_HOSTS", str(hosts))
        yield made


@pytest.fixture
def wrong(monkeypatch):
    """What a drill of a database ends with, by its name; `drilled` are those that were begun."""
    errors: dict[str, Exception] = {}
    drilled: list[str] = []

    def run(_host, line, _identity=None):
        name = line.partition("--database ")[2].split()[0]
        drilled.append(name)
        if name in errors:
            raise errors[name]
        return Restored(3, 12, 9)

    fleet = SimpleNamespace(dry=False)
    monkeypatch.setattr(drill_command, "connected", lambda _ctx, _inventory: nullcontext(fleet))
    monkeypatch.setattr(host_run, "find_host", lambda _fleet, _inventory: None)
    monkeypatch.setattr(drill_command, "run_script", run)
    return SimpleNamespace(errors=errors, drilled=drilled, fleet=fleet)


@pytest.fixture
def inv(capsys):
    return runner(Collection(Collection("backup", drill_command.drill)), capsys)


def put_all(server, *names: str) -> None:
    for name in names:
        server.put(datetime.now(UTC).replace(microsecond=0) - HOUR, database=name)


def test_every_database_is_drilled(server, wrong, inv):
    put_all(server, *NAMES)
    code, out, err = inv("backup.drill")
    assert (code, err) == (0, "")
    assert tuple(wrong.drilled) == NAMES
    assert out.count("drilled: set ") == 3


def test_a_failed_drill_keeps_no_other_from_being_made(server, wrong, inv):
    put_all(server, *NAMES)
    wrong.errors["nocodb"] = CheckFailedError("db1: the set is damaged", hint="use another")
    wrong.errors["second"] = UnreachableError("db1: the bucket refuses the outcome")
    code, out, err = inv("backup.drill")
    assert tuple(wrong.drilled) == NAMES
    assert "of third: 3 tables, 12 rows" in out
    assert "error: drill of nocodb: db1: the set is damaged\n  next: use another" in err
    assert "error: drill of second: db1: the bucket refuses the outcome" in err
    assert code == 3


def test_a_database_without_a_good_set_keeps_no_other_from_being_drilled(server, wrong, inv):
    put_all(server, "second")
    code, _, err = inv("backup.drill")
    assert wrong.drilled == ["second"]
    assert code == 4
    assert "s3://test-bucket/postgres/nocodb/ has no backup" in err
    assert "s3://test-bucket/postgres/third/ has no backup" in err


def test_dry_and_wrong_flags(server, wrong, inv):
    put_all(server, *NAMES)
    wrong.fleet.dry = True
    code, out, _ = inv("backup.drill")
    assert (code, "drilled: " in out) == (0, False)
    assert out.endswith("dry run, nothing was changed\n")
    assert inv("backup.drill", "--key", "20260101T000000Z", "--before", "3d")[0] == 2


def test_of_two_projects_none_is_drilled_where_it_is_not_known_which_is_ours(server, wrong, inv):
    now = datetime.now(UTC).replace(microsecond=0)
    for hours, identity in ((1, "a"), (2, "b")):
        server.put(now - hours * HOUR, project={"name": "", "id": identity * 16})
    code, _, err = inv("backup.drill", "--database", "nocodb")
    assert code == 2
    assert "holds sets of 2 projects" in err
    assert wrong.drilled == []
