"""What clients notice of a change: a client that asks a hundred times a second, with and without
the proxy in front of NocoDB, and beside it `docker stack deploy` alone.

Run as `make bench-availability`; needs root and the lab, which it brings up. Each line is a change
of a running NocoDB: requests, those that failed, and the longest time in which none was answered.
Exit code 1 if a goal is missed or an acknowledged write is not there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.backup.subject import ROOT, end
from fabfile.base.errors import SwarmkeepError
from fabfile.config import hosts_file
from fabfile.deploy import stacks
from fabfile.vault import reading
from lab import demo, docker, images, ledger, waiting
from lab.ledger import Ledger
from lab.model import DEFAULT_NAME, Lab
from lab.progress import Progress

APP = "appstack_nocodb"
NEXT, BAD = "0.301.4", "0.301.5"
POSTGRES_NEXT = "15.99-bookworm"
DOWN_SECONDS = 90.0


@dataclass(frozen=True)
class Change:
    """A kind of change: how it is made, which returns what it said, and how many requests may fail
    (None: no goal). With `restarts` the longest gap may be so much longer, in seconds, than the
    deploy says that no task ran.
    """

    name: str
    act: Callable[[], str]
    goal: int | None
    restarts: float | None = None

    def judge_gap(self, gap: float, said: str) -> tuple[bool, str]:
        """Whether the longest gap is short enough, and what there is to say of that."""
        found = re.search(r"no task ran for ([0-9.]+) s", said)
        if self.restarts is None or not found:
            return self.restarts is None, ""
        away = float(found[1])
        said = f" ({gap - away:+.1f} s: no task ran for {away:.1f} s, goal +{self.restarts:.1f})"
        return gap <= away + self.restarts, said


class Bench:
    """The lab with two app versions, and hosts files with and without the proxy."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.address = lab.addresses["app1"]
        self._data: dict[str, Any] = yaml.safe_load(lab.hosts_file.read_text())
        self._image = images.NOCODB.tag.rpartition(":")[0]
        self._number = 0

    def prepare(self) -> None:
        """Images and tags on the nodes."""
        with Progress(print) as progress:
            images.ensure(progress, (images.CADDY,))
        for node, tag in (("app1", images.CADDY.tag), ("manager1", images.NOCODB.tag)):
            target = self.lab.container(node)
            docker.pipe(("save", tag), ("exec", "--interactive", target, "docker", "load"))
        app, database = self.lab.container("app1"), self.lab.container("db1")
        docker.inside(app, "docker", "tag", images.NOCODB.tag, f"{self._image}:{NEXT}")
        fails = f'FROM {images.NOCODB.tag}\nCMD ["false"]\n'
        tag = f"{self._image}:{BAD}"
        docker.inside(app, "docker", "build", "--tag", tag, "-", input=fails.encode())
        docker.inside(database, "docker", "tag", images.POSTGRES.tag, self.postgres_next)

    @property
    def postgres_next(self) -> str:
        """PostgreSQL's image under another name."""
        return f"{images.POSTGRES.tag.rpartition(':')[0]}:{POSTGRES_NEXT}"

    def hosts(self, *, behind: bool, **changes: dict[str, Any]) -> Path:
        """A hosts file with changed sections."""
        data = {key: dict(v) if isinstance(v, dict) else v for key, v in self._data.items()}
        if behind:
            data["app"].pop("public_url", None)
            data["app"]["domain"] = self.address
            data["images"]["proxy"] = images.CADDY.tag
            data["proxy"] = {"certificates": "none"}
        for key, more in changes.items():
            data[key] = {**data.get(key, {}), **more}
        self._number += 1
        path = self.lab.directory / f"hosts-availability-{self._number}.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    def image(self, version: str) -> dict[str, str]:
        """The section `images` with this version of NocoDB."""
        return {"nocodb": f"{self._image}:{version}"}

    def inv(self, *words: str, hosts: Path, code: int = 0) -> str:
        """Run a command of ours, return what it says. Raises SwarmkeepError if it ends with another
        exit code.
        """
        environment = self.lab.environment() | {"SWARMKEEP_HOSTS": str(hosts)}
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != code:
            raise SwarmkeepError(
                f"inv {words[0]} ended with exit code {done.returncode}",
                details=tuple((done.stdout + done.stderr).splitlines()[-8:]),
            )
        return done.stdout

    def plain(self, hosts: Path) -> str:
        """`docker stack deploy` of the same stack, and waiting until its task is another one."""
        inventory = hosts_file.load(hosts)
        wanted = stacks.application(inventory, reading.load(inventory.vault, ask=None))
        before = self.task()
        deploy = ("docker", "stack", "deploy", "--resolve-image=never", "-c", "-", wanted.name)
        manager = self.lab.container("manager1")
        docker.inside(manager, *deploy, input=wanted.stack_input.encode())

        def look() -> str:
            return "" if self.task() not in ("", before) else "no other task"

        if problem := waiting.until(look, deadline=DOWN_SECONDS):
            raise SwarmkeepError(f"docker stack deploy: {problem}")
        return ""

    def task(self) -> str:
        """The id of the app's running task on its node, once it is healthy; "" for none."""
        filters = (f"label=com.docker.swarm.service.name={APP}", "health=healthy")
        words = [word for one in filters for word in ("--filter", one)]
        found = docker.inside(self.lab.container("app1"), "docker", "ps", "-q", *words).split()
        return found[0] if found else ""

    def measured(self, change: Change, url: str) -> bool:
        """Make a change under a client and print its line; whether the goal is met."""
        server = demo.login(self.lab, url)
        table = server.table(server.base("Ledger"), f"T{time.time_ns()}", ledger.COLUMNS)
        with Ledger(server, url.removeprefix("http://"), table) as client:
            client.let_pass()
            begun = time.monotonic()
            said = change.act()
            took = time.monotonic() - begun
            client.let_pass()
        found = ledger.numbers(server, table)
        kept = client.acknowledged <= set(found) and len(found) == len(set(found))
        failed = len(client.failures)
        short, compared = change.judge_gap(client.gap, said)
        good = kept and short and (change.goal is None or failed <= change.goal)
        goal = "" if change.goal is None else f" (goal at most {change.goal})"
        print(
            f"{'ok' if good else 'MISSED':<7}{change.name:<48}{client.asked:>6} requests, "
            f"{failed:>4} failed{goal}, longest gap {client.gap:4.1f} s{compared}, "
            f"took {took:3.0f} s" + ("" if kept else "; ACKNOWLEDGED WRITES ARE NOT THERE"),
            flush=True,
        )
        for line in client.failures[:3] if change.goal is not None else ():
            print(f"         {line}")
        return good

    def without_proxy(self) -> list[Change]:
        """What each change costs without a proxy."""
        now, new = self.hosts(behind=False), self.hosts(behind=False, images=self.image(NEXT))
        return [
            Change("docker stack deploy, new image", lambda: self.plain(new), None),
            Change("inv deploy-app, new image", lambda: self.inv("deploy-app", hosts=now), None),
        ]

    def with_proxy(self) -> list[Change]:
        """What each costs with one."""
        now = self.hosts(behind=True)
        new = self.hosts(behind=True, images=self.image(NEXT))
        bad = self.hosts(behind=True, images=self.image(BAD))
        setting = self.hosts(behind=True, proxy={"certificates": "none", "drain": "11s"})
        other = self.hosts(behind=True, images={"postgres": self.postgres_next})
        return [
            Change("inv deploy-app, new image", lambda: self.inv("deploy-app", hosts=new), 0),
            Change("inv rollback app", lambda: self.inv("rollback", "app", hosts=now), 0),
            Change("inv deploy-app, new setting", lambda: self.inv("deploy-app", hosts=setting), 0),
            Change("inv deploy-app, a version that does not start",
                   lambda: self.inv("deploy-app", hosts=bad, code=1), 0),
            Change("inv deploy-app, back", lambda: self.inv("deploy-app", hosts=now), 0),
            Change("inv secrets.rotate", lambda: self.inv("secrets.rotate", hosts=now), 1),
            Change("inv upgrade-app", lambda: self.inv("upgrade-app", NEXT, hosts=now), None),
            Change("inv deploy-db, new image",
                   lambda: self.inv("deploy-db", "--yes", hosts=other), None, restarts=2.0),
        ]  # fmt: skip


def measure(bench: Bench) -> int:
    """Make every change in turn; the exit code."""
    plain, proxied = bench.hosts(behind=False), bench.hosts(behind=True)
    good = []
    bench.inv("deploy", "--yes", hosts=plain)
    bench.inv("backup.install", hosts=plain)
    print("without a proxy")
    good += [bench.measured(one, bench.lab.nocodb_url) for one in bench.without_proxy()]
    bench.inv("deploy", "--yes", hosts=proxied)
    print("behind the proxy")
    good += [bench.measured(one, f"http://{bench.address}") for one in bench.with_proxy()]
    return int(not all(good))


def main() -> int:
    """Prepare, measure, and leave the lab without a proxy."""
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME
    subprocess.run([sys.executable, "-m", "invoke", "lab.up", "--name", name], cwd=ROOT, check=True)
    bench = Bench(Lab.load(name))
    bench.prepare()
    try:
        return measure(bench)
    finally:
        plain = bench.hosts(behind=False)
        bench.inv("deploy", "--yes", hosts=plain)
        bench.inv("proxy.remove", hosts=plain)
        for path in bench.lab.directory.glob("hosts-availability-*.yaml"):
            path.unlink()


if __name__ == "__main__":
    end(main)
