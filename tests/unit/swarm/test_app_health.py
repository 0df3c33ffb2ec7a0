"""Is NocoDB asked at all, and is what it says understood?"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from types import SimpleNamespace

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import Result
from fabfile.swarm import app_health
from fabfile.swarm.app_health import await_app
from tests.unit import clusters

APP = clusters.service("appstack_nocodb")


def ask(*tasks, known=("app1",), code=0, said="HTTP 200\n", services=(APP,)):
    """Ask the app of these tasks; returns on which hosts that was done."""
    asked = []

    class Host:
        def __init__(self, name):
            self.name = name

        def run(self, command, *, timeout):
            assert not command.changes
            asked.append(self.name)
            return Result(self.name, code, said, "")

    inventory = SimpleNamespace(
        app=SimpleNamespace(stack="appstack"),
        host_of_node=lambda node: SimpleNamespace(name=node) if node in known else None,
    )
    fleet = SimpleNamespace(host=lambda entry: Host(entry.name))
    await_app(fleet, inventory, clusters.cluster(services, tasks))  # type: ignore[arg-type]
    return asked


def running(**changes):
    return clusters.task(APP, **({"node_id": "id-app1"} | changes))


def test_every_running_task_on_a_host_of_ours_is_asked():
    elsewhere = running(node_id="id-db1", slot=2)
    gone = running(desired="shutdown", slot=3)
    assert ask(running(), elsewhere, gone) == ["app1"]
    assert ask(running(), elsewhere, known=("app1", "db1")) == ["app1", "db1"]


def test_another_service_of_the_stack_is_no_nocodb():
    helper = clusters.service("appstack_helper")
    task = clusters.task(helper, node_id="id-app1")
    assert ask(running(), task, services=(APP, helper)) == ["app1"]


@pytest.mark.parametrize("tasks", [(), (clusters.task(APP, "failed", node_id="id-app1"),)])
def test_an_app_without_tasks_does_not_answer(tasks):
    with pytest.raises(SwarmkeepError, match="appstack_nocodb: has no running task") as caught:
        ask(*tasks)
    assert "inv status" in caught.value.hint
    with pytest.raises(SwarmkeepError, match="has no running task"):
        ask(services=())


def test_an_app_that_nobody_can_be_asked_about():
    with pytest.raises(SwarmkeepError, match="runs on app1 only, which is no host") as caught:
        ask(running(), known=())
    assert "hosts.yaml" in caught.value.hint


def test_what_it_said_last_is_the_reason():
    with pytest.raises(SwarmkeepError, match="on app1 but cannot use its database: HTTP 500"):
        ask(running(), code=1, said="connect ECONNREFUSED\nHTTP 500\n")
    with pytest.raises(SwarmkeepError, match="cannot use its database: no answer"):
        ask(running(), code=1, said="")


def test_each_try_has_an_end(tmp_path, monkeypatch):
    """The script itself, with a docker that hangs."""
    (tmp_path / "docker").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setattr(app_health, "TRY_SECONDS", -4)
    start = time.monotonic()
    script = app_health._ask_app("c1", 0)
    assert "timeout -k 5 1 docker exec c1 node" in script
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
    )
    assert done.returncode == 1
    assert time.monotonic() - start < 30


@pytest.mark.skipif(not shutil.which("node"), reason="node runs what is asked in the container")
def test_a_nocodb_that_accepts_and_hangs_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(app_health, "TRY_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        (tmp_path / "docker").write_text(
            f'#!/bin/sh\nexec node -e "$(printf %s "$5" | sed s/:8080/:{port}/)"\n'
        )
        (tmp_path / "docker").chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", app_health._ask_app("c1", 0)],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, "no answer within 1 s\n")
