"""Machines on which only sshd runs, for swarm.init. Made and removed by a test."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import yaml

from lab import capabilities, cluster, docker, files, images, members, network, waiting
from lab.model import LABEL, Lab, directory_of

NUMBERS = {"one": 31, "two": 32, "three": 33}
START = "mkdir -p /run/sshd; ssh-keygen -A; exec /usr/sbin/sshd -D -e"
# Debian's own raises limits, which a container may not on a machine without CAP_SYS_RESOURCE.
INIT_SCRIPT = b"""#!/bin/sh
[ "$1" = start ] || exit 0
start-stop-daemon --start --background --exec /usr/sbin/dockerd \\
  --pidfile /var/run/docker-ssd.pid --make-pidfile -- -p /var/run/docker.pid
"""


@dataclass(frozen=True)
class Bare:
    """The machines. `lab` only names them, its own members do not exist."""

    lab: Lab

    def address(self, name: str) -> str:
        return f"{self.lab.subnet}.{NUMBERS[name]}"

    def exec(
        self, name: str, *argv: str, input: bytes | None = None, timeout: float = 120
    ) -> CompletedProcess[bytes]:
        return self.lab.exec(name, *argv, input=input, timeout=timeout)

    def sh(self, name: str, script: str, input: bytes | None = None, timeout: float = 120) -> str:
        done = self.exec(name, "sh", "-c", script, input=input, timeout=timeout)
        assert done.returncode == 0, (script, done.stderr.decode())
        return done.stdout.decode().strip()

    def configure_engine(self, name: str, settings: dict[str, Any]) -> None:
        """Write what dockerd reads when it starts."""
        if not capabilities.CGROUP_V2.exists():
            # That tree is shared with this machine: below here everything is removed at the end.
            settings = {**settings, "cgroup-parent": members.cgroup_parent(self.lab, name)}
        self.sh(name, "cat >/etc/docker/daemon.json", input=json.dumps(settings).encode())

    def hosts(self, changes: dict[str, dict[str, Any]] | None = None, **more: Any) -> Path:
        """A hosts file: one and two are managers, three is a worker with role db."""
        data: dict[str, Any] = {
            "ssh": {"key": "id_ed25519", "known_hosts": "known_hosts"},
            "hosts": {
                "one": {"address": self.address("one"), "swarm": "manager", "role": "app"},
                "two": {"address": self.address("two"), "swarm": "manager"},
                "three": {"address": self.address("three"), "role": "db"},
            },
            "s3_bucket_name": "none-at-all",
        } | more
        for name, keys in (changes or {}).items():
            data["hosts"][name] |= keys
        path = self.lab.directory / "hosts.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path


@contextlib.contextmanager
def machines(name: str) -> Iterator[Bare]:
    """Three machines; all of it is removed again, whatever is left of it."""
    directory = directory_of(name)
    cluster.down(name, say=print)
    directory.mkdir(parents=True)
    try:
        with network.choosing():
            lab = Lab(name, directory, network.choose_subnet())
            network.ensure(lab)
        public_key = files.ssh_public_key(lab)
        bare = Bare(lab)
        with ThreadPoolExecutor() as pool:
            keys = dict(pool.map(lambda name: (name, _make(bare, name, public_key)), NUMBERS))
        lines = [
            f"{bare.address(name)} {' '.join(line.split()[:2])}"
            for name, text in keys.items()
            for line in text.splitlines()
        ]
        (directory / "known_hosts").write_text("\n".join(lines) + "\n")
        yield bare
    finally:
        cluster.down(name, say=print)


def _make(bare: Bare, name: str, public_key: str) -> str:
    """Run a machine and return its host keys."""
    lab = bare.lab
    docker.run(
        "run", "--detach", "--init", "--no-healthcheck",
        "--name", lab.container(name), "--hostname", name, "--label", f"{LABEL}={lab.name}",
        "--network", lab.network, "--ip", bare.address(name),
        *capabilities.flags(members.cgroup_parent(lab, name)),
        images.NODE.tag, "sh", "-c", START,
        timeout=120,
    )  # fmt: skip
    bare.sh(
        name,
        "mkdir -p -m 700 /root/.ssh && cat >/root/.ssh/authorized_keys",
        input=f"{public_key}\n".encode(),
    )
    problem = waiting.until(
        lambda: (
            ""
            if bare.exec(name, "bash", "-c", "exec 3</dev/tcp/127.0.0.1/22").returncode == 0
            else "sshd does not answer"
        ),
        deadline=20,
    )
    assert not problem
    bare.sh(name, "cat >/etc/init.d/docker && chmod 755 /etc/init.d/docker", input=INIT_SCRIPT)
    return bare.sh(name, "cat /etc/ssh/ssh_host_*_key.pub")
