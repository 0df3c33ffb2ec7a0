"""A lab with point-in-time recovery switched on, for as long as a measurement lasts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.backup.subject import Subject, inv
from lab import docker
from lab.model import DEFAULT_NAME, Lab

WAL_SCRIPT = "/usr/local/bin/wal-pg.sh"


@dataclass(frozen=True)
class SwitchedOn:
    """The lab, and a hosts file of its own in which `backup.pitr` is true."""

    lab: Lab
    hosts: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes `inv` mean it."""
        return self.lab.environment() | {"SWARMKEEP_HOSTS": str(self.hosts)}

    @property
    def node(self) -> str:
        """The container of the db node."""
        return self.lab.container("db1")

    def install(self, **settings: Any) -> None:
        """Write the hosts file with more settings of `backup`, and install."""
        data = yaml.safe_load(self.lab.hosts_file.read_text())
        data["backup"] |= {"pitr": True, **settings}
        self.hosts.write_text(yaml.safe_dump(data))
        inv("backup.install", env=self.environment)

    def alone(self, action: str) -> None:
        """Run wal-pg.sh with an action, once no run of cron's is under way."""
        again = f"until {WAL_SCRIPT} {action}; do [ $? = 10 ] || exit 1; sleep 0.5; done"
        docker.inside(self.node, "bash", "-c", again, timeout=600)

    def cron(self, action: str) -> None:
        """Start or stop cron on the db node."""
        docker.inside(self.node, "service", "cron", action)


@contextmanager
def switched_on() -> Iterator[SwitchedOn]:
    """Bring up the lab that the command line names; afterwards it is off there again."""
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME
    inv("lab.up", "--name", name)
    lab = Lab.load(name)
    os.environ |= lab.environment()
    found = SwitchedOn(lab, lab.directory / "hosts-bench-pitr.yaml")
    try:
        inv("deploy-db", env=lab.environment())
        found.install()
        yield found
    finally:
        inv("backup.install", env=lab.environment())
        found.hosts.unlink(missing_ok=True)


def container_of(subject: Subject) -> str:
    """The id of PostgreSQL's container on the db node."""
    label = "label=com.docker.swarm.service.name=dbstack_root_db"
    return docker.inside(subject.node, "docker", "ps", "-q", "--filter", label).strip()


def cluster_of(subject: Subject) -> str:
    """PostgreSQL's system identifier, which its WAL lies under."""
    return subject.sql("SELECT system_identifier FROM pg_control_system()")


def print_goals(*goals: tuple[bool, str]) -> int:
    """Print what was measured beside what is wanted; return the exit code."""
    for good, words in goals:
        print(f"{'ok' if good else 'MISSED'}  {words}")
    return int(not all(good for good, _ in goals))
