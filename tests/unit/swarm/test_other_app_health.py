"""Is an app beside NocoDB asked at all, where, and is what it says understood?"""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import Result
from fabfile.swarm import other_app_health
from fabfile.swarm.other_app_health import await_other_app
from tests.unit import clusters
from tests.unit.config.test_apps import read

SERVICE = clusters.service("kintostack_kinto")


class Host:
    name = "app1"

    def __init__(self, *answers: int | OSError, address: str = "172.18.0.5") -> None:
        self.answers, self.address, self.asked = list(answers), address, []

    def check(self, command: Any, what: str) -> Result:
        assert not command.changes
        assert "c-1" in command.script
        return Result(self.name, 0, f"{self.address}\n" if self.address else "", "")

    def get(self, request: Any) -> Any:
        self.asked.append((request.address, request.port, request.path))
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return SimpleNamespace(status=answer)


def ask(tmp_path, host: Host, *tasks: Any, deadline: float = 60, **settings: Any) -> str:
    inventory = read(
        tmp_path, {"kinto": {"image": "k", "port": 8888, "health": {"path": "/ok"}, **settings}}
    )
    fleet = SimpleNamespace(
        inventory=SimpleNamespace(
            host_of_node=lambda node: SimpleNamespace(name=node) if node == "app1" else None
        ),
        host=lambda entry: host,
    )
    cluster = clusters.cluster((SERVICE,), tasks)
    return await_other_app(fleet, inventory.apps[0], cluster, deadline)  # type: ignore[arg-type]


def running(**changes: Any) -> Any:
    values = {"node_id": "id-app1", "container_id": "c-1"} | changes
    return clusters.task(SERVICE, **values)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(other_app_health, "POLL_SECONDS", 0)


def test_asked_until_it_answers_as_it_should(tmp_path):
    host = Host(ConnectionRefusedError("nothing listens there"), 503, 200)
    assert ask(tmp_path, host, running()) == "kinto answers /ok with 200"
    assert host.asked == [("172.18.0.5", 8888, "/ok")] * 3


def test_another_status_can_be_the_good_one(tmp_path):
    host = Host(204)
    health = {"path": "/ok", "status": 204}
    assert ask(tmp_path, host, running(), health=health) == "kinto answers /ok with 204"


def test_it_never_does(tmp_path):
    with pytest.raises(SwarmkeepError, match="8888/ok answers HTTP 500 instead of HTTP 200"):
        ask(tmp_path, Host(500), running(), deadline=-1)


def test_no_task_runs(tmp_path):
    with pytest.raises(SwarmkeepError, match="has no running task"):
        ask(tmp_path, Host(), running(desired="shutdown"))


def test_where_nobody_can_ask(tmp_path):
    with pytest.raises(SwarmkeepError, match="runs on db1 only, which is no host"):
        ask(tmp_path, Host(), running(node_id="id-db1"))


def test_a_task_without_an_address(tmp_path):
    with pytest.raises(SwarmkeepError, match="has no address on docker_gwbridge"):
        ask(tmp_path, Host(address=""), running())


def test_without_a_request_it_is_said_how_little_was_seen(tmp_path):
    said = ask(tmp_path, Host(), running(), health=None)
    assert "names no request that could tell more" in said


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs sh")
def test_the_address_is_that_of_the_tasks_own_sandbox(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "docker"
    fake.write_text(
        "#!/bin/sh\n"
        "case $1 in inspect) echo 0123456789abcdef ;;\n"
        "network) echo 'gateway_ingress-sbox 172.18.0.2/16'; echo 'gateway_0123456789ab "
        "172.18.0.7/16'; echo 'gateway_aaaaaaaaaaaa 172.18.0.8/16' ;; esac\n"
    )
    fake.chmod(0o755)
    scripts: list[str] = []

    class Shell(Host):
        def check(self, command: Any, what: str) -> Result:
            scripts.append(command.script)
            done = subprocess.run(
                ["sh", "-c", command.script], capture_output=True, text=True, check=True,
                env={"PATH": f"{folder}:/usr/bin:/bin"},
            )  # fmt: skip
            return Result(self.name, 0, done.stdout, "")

    host = Shell(200)
    ask(tmp_path, host, running())
    assert host.asked[0][0] == "172.18.0.7"
