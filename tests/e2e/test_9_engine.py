"""A machine whose Docker engine was killed hard: the lab starts it again, and nothing is lost.

The machine is a container, since the engine that all the others run on must stay.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import invoke
import pytest

from lab import capabilities, images, waiting
from lab import docker as outer
from lab.model import LABEL
from tests.e2e.conftest import NAME, ROOT

MACHINE = f"{NAME}-engine"
PACKAGES = Path(invoke.__file__).parents[1]
ENSURE = """
from lab import engine
from lab.progress import Progress
with Progress(print) as progress:
    engine.ensure(progress)
"""
# An image of one program, since there is no registry to pull one from.
IMAGE = """
tar -ch /usr/bin/sleep $(ldd /usr/bin/sleep | grep -o '/[^ ]*') 2> /dev/null |
  docker import - tiny > /dev/null
docker run --detach --name kept --volume data:/data tiny /usr/bin/sleep 1000 > /dev/null
echo precious > /var/lib/docker/volumes/data/_data/file
"""
# The engine, its containerd, its shims and every container, all at once.
EVERYTHING = "dockerd|containerd|sleep"


@pytest.fixture
def machine(lab):
    """A machine with Docker installed and not running, and the lab's code on it."""
    parent = f"/swarmkeep-lab/{NAME}/engine"
    outer.run(
        *("run", "--detach", "--init", "--no-healthcheck", "--name", MACHINE),
        *("--label", f"{LABEL}={NAME}", "--volume", "/var/lib/docker"),
        *("--volume", f"{ROOT}:/repository:ro", "--volume", f"{PACKAGES}:/packages:ro"),
        *("--env", "PYTHONPATH=/repository:/packages", "--env", "PYTHONDONTWRITEBYTECODE=1"),
        *capabilities.flags(parent),
        *(images.NODE.tag, "tail", "-f", "/dev/null"),
    )
    # What it leaves in a cgroup tree that it shares with us goes when the lab goes.
    settings = json.dumps({"cgroup-parent": parent})
    inside(f"echo {shlex.quote(settings)} > /etc/docker/daemon.json")
    yield
    outer.run("container", "rm", "--force", "--volumes", MACHINE)


def inside(script: str) -> str:
    return outer.inside(MACHINE, "sh", "-ec", script)


def ensure() -> str:
    return outer.inside(MACHINE, "python3", "-c", ENSURE)


def survivors() -> str:
    return outer.exec(MACHINE, "pgrep", EVERYTHING).stdout.decode()


def test_an_engine_that_was_killed_hard_is_started_again(machine):
    assert "Docker engine starts" in ensure()
    inside(IMAGE)
    inside(f"pkill -KILL '{EVERYTHING}'")
    assert not waiting.until(survivors, deadline=20)
    assert outer.exec(MACHINE, "docker", "info").returncode
    # As after a reboot: the number in the pid file now is somebody else's.
    inside("echo 1 > /run/docker.pid; echo 1 > /run/docker/containerd/containerd.pid")
    out = ensure()
    assert "Docker engine: does not run" in out
    assert "Docker engine starts" in out
    assert inside("docker inspect --format '{{.State.Status}}' kept") == "exited\n"
    inside("docker start kept")
    assert inside("docker inspect --format '{{.State.Running}}' kept") == "true\n"
    assert inside("cat /var/lib/docker/volumes/data/_data/file") == "precious\n"
    # Running, it is left alone.
    number = inside("cat /run/docker.pid")
    assert "Docker engine: runs" in ensure()
    assert inside("cat /run/docker.pid") == number
