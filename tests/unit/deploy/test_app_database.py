"""Role and databases of an app beside NocoDB: what is made, what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base import scram
from fabfile.base.errors import ConfigError
from fabfile.deploy import app_database
from fabfile.deploy.preflight_data import check_other_app
from fabfile.ssh.remote_command import Result
from fabfile.swarm.postgres import Names
from tests.unit import clusters
from tests.unit.deploy.test_other_app_stack import stack

PASSWORD = "correct-horse"


class Server:
    """Stands for psql in the container: answers the question, keeps what was run."""

    name = "db1"

    def __init__(self, *lines: str) -> None:
        self.lines, self.ran = lines, []

    def check(self, command: Any, what: str, **rest: Any) -> Result:
        sql = command.stdin.decode().splitlines()[0]
        assert PASSWORD not in command.script + command.stdin.decode()
        if not command.changes:
            return Result(self.name, 0, "".join(f"{line}\n" for line in self.lines), "")
        self.ran.append(sql)
        return Result(self.name, 0, "", "")


@pytest.fixture
def make(tmp_path, monkeypatch):
    _, inventory = stack(tmp_path, app={"database": ["kinto", "kinto_log"]})

    def run(server: Server) -> list[str]:
        fleet = SimpleNamespace(inventory=inventory)
        monkeypatch.setattr(app_database, "running", lambda *_: (server, "c1"))
        return app_database.make(fleet, None, inventory.apps[0], PASSWORD, [])  # type: ignore[arg-type]

    return run


def test_nothing_is_there(make):
    server = Server()
    assert make(server) == [
        "role kinto: created",
        "database kinto: created, owner kinto",
        "database kinto_log: created, owner kinto",
    ]
    role, first, second = server.ran
    assert role.startswith("""CREATE ROLE "kinto" LOGIN PASSWORD 'SCRAM-SHA-256$4096:""")
    assert 'CREATE DATABASE "kinto" OWNER "kinto"; REVOKE CONNECT' in first
    assert 'CREATE DATABASE "kinto_log"' in second


def test_what_is_there_is_left_alone(make):
    kept = scram.verifier(PASSWORD)
    server = Server(f"role {kept}", "database kinto kinto")
    assert make(server) == ["database kinto_log: created, owner kinto"]


def test_a_role_with_another_password_is_somebody_elses(make):
    server = Server(f"role {scram.verifier('another')}")
    with pytest.raises(ConfigError, match="with another password than the vault's vault_kinto_"):
        make(server)
    assert server.ran == []


def test_a_role_without_a_password(make):
    with pytest.raises(ConfigError, match="with another password"):
        make(Server("role "))


def test_a_database_of_another_owner(make):
    server = Server("database kinto_log nocodb")
    with pytest.raises(ConfigError, match="a database kinto_log already, of the role nocodb"):
        make(server)
    assert server.ran == []


def test_what_is_lacking(tmp_path):
    app = stack(tmp_path, app={"database": ["kinto", "log"]})[1].apps[0]
    assert app_database.lacking(app, None) == ("role kinto", "database kinto", "database log")
    names = Names(frozenset({"nocodb", "kinto"}), frozenset({"kinto"}))
    assert app_database.lacking(app, names) == ("database log",)


def test_an_app_that_runs_begins_no_empty_database(tmp_path):
    wanted, inventory = stack(tmp_path)
    lacking = ("database kinto",)
    live = clusters.cluster((clusters.service("kintostack_kinto"),))
    with pytest.raises(ConfigError, match="PostgreSQL has no database kinto") as caught:
        check_other_app(inventory, wanted, live, lacking, leave_data=False)
    assert "inv backup.restore" in str(caught.value.hint)
    check_other_app(inventory, wanted, live, lacking, leave_data=True)
    check_other_app(inventory, wanted, clusters.cluster(), lacking, leave_data=False)
