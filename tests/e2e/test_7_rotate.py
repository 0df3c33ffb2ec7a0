"""inv secrets.rotate on the real Swarm, watched by a client that asks every 100 ms."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

from fabfile.base import scram
from fabfile.config import hosts_file
from fabfile.vault import reading
from fabfile.vault.reading import POSTGRES_PASSWORD
from tests.e2e.background import read_until, start
from tests.e2e.live import APP, DB, cluster_state, container_of, docker

NEXT, PREVIOUS = f"{POSTGRES_PASSWORD}_next", f"{POSTGRES_PASSWORD}_previous"
INFO = "/api/v1/db/meta/nocodb/info"  # looks at the database; /api/v1/health does not
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(lab) -> bool:
    try:
        with _OPENER.open(lab.nocodb_url + INFO, timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


@dataclass
class Watch:
    """Does something again and again in a thread, for the length of a block."""

    action: Callable[[], None]
    every: float
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(self.every):
            self.action()


def command_lines(seen: set[bytes]) -> None:
    """Every process of this machine: those in the lab's nodes are among them."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                seen.add((process / "cmdline").read_bytes())
            except OSError:  # it has ended
                continue


def entries(lab) -> dict[str, str]:
    found = reading.load(hosts_file.load(lab.hosts_file).vault)
    return {name: found.require(name).reveal() for name in found.names()}


def sql(lab, text: str) -> str:
    """Run SQL as the superuser, over the socket in the container, which asks for no password."""
    psql = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "nocodb", "-d", "nocodb")
    container = container_of(lab, "db1", DB)
    done = lab.exec("db1", "docker", "exec", "-i", container, *psql, input=text.encode())
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def logs_in(lab, password: str) -> bool:
    """Whether the server takes the password where it asks for it: not over loopback."""
    script = (
        "IFS= read -r PGPASSWORD; export PGPASSWORD; "
        'psql -XAtqw -h "$(hostname -i | cut -d " " -f 1)" -U nocodb -d nocodb -c "SELECT 1"'
    )
    docker_exec = ("docker", "exec", "-i", container_of(lab, "db1", DB), "sh", "-c", script)
    done = lab.exec("db1", *docker_exec, input=f"{password}\n".encode())
    assert done.returncode == 0 or b"password authentication failed" in done.stderr, done.stderr
    return done.returncode == 0


def kept(lab) -> str:
    return sql(lab, "SELECT rolpassword FROM pg_authid WHERE rolname = 'nocodb'")


def app_tasks(lab) -> set[str]:
    return set(docker(lab, "manager1", "service", "ps", "-q", "--no-trunc", APP).split())


def secret_names(lab) -> set[str]:
    return set(docker(lab, "manager1", "secret", "ls", "--format", "{{.Name}}").split())


def is_through(lab, old: str) -> None:
    """One new password in the vault, in the database and in the app, and nothing left over."""
    now = entries(lab)
    assert now[POSTGRES_PASSWORD] != old
    assert NEXT not in now
    assert PREVIOUS not in now
    assert logs_in(lab, now[POSTGRES_PASSWORD])
    assert answers(lab)
    assert len([n for n in secret_names(lab) if n.startswith("appstack_nocodb_database_")]) == 1


@pytest.fixture(scope="module", autouse=True)
def stacks(deployed, lab) -> Iterator[None]:
    """Other tests know the lab's own password: it is put back at the end."""
    path = hosts_file.load(lab.hosts_file).vault.file
    before, password = path.read_bytes(), entries(lab)[POSTGRES_PASSWORD]
    yield
    sql(lab, f"ALTER ROLE nocodb PASSWORD '{scram.verifier(password)}'")
    path.write_bytes(before)
    deployed.ok("deploy", "--yes", "--wait")


def test_rotation_costs_one_restart_of_the_app_and_shows_no_secret(product, lab):
    old, database, tasks = (
        entries(lab)[POSTGRES_PASSWORD],
        container_of(lab, "db1", DB),
        app_tasks(lab),
    )
    asked: list[tuple[float, bool]] = []
    seen: set[bytes] = set()
    sql(lab, "ALTER SYSTEM SET log_statement = 'all'")
    sql(lab, "SELECT pg_reload_conf()")
    try:
        with (
            Watch(lambda: asked.append((time.monotonic(), answers(lab))), 0.1),
            Watch(lambda: command_lines(seen), 0.2),
        ):
            ran = product.ok("secrets.rotate")
            wait_for(lambda: asked[-1][1], "the client's answer")
    finally:
        sql(lab, "ALTER SYSTEM RESET log_statement")
        sql(lab, "SELECT pg_reload_conf()")
    is_through(lab, old)
    assert not logs_in(lab, old)
    assert container_of(lab, "db1", DB) == database
    assert len(app_tasks(lab) - tasks) == 1
    assert "commit" in ran.out

    outages = [list(group) for good, group in groupby(asked, lambda one: one[1]) if not good]
    assert len(outages) == 1, [len(outage) for outage in outages]
    first = next(time for time, good in asked if not good)
    again = next(time for time, good in asked if good and time > first)
    print(f"\nthe app was away for {again - first:.1f} s, {len(asked)} requests")

    new = entries(lab)[POSTGRES_PASSWORD]
    log = lab.exec("db1", "sh", "-c", f"docker logs {database} 2>&1").stdout.decode()
    assert 'ALTER ROLE "nocodb" PASSWORD \'SCRAM-SHA-256$' in log
    everything = "docker inspect $(docker ps -aq); cat /var/log/swarmkeep* 2>/dev/null"
    manager = "; docker service inspect $(docker service ls -q); docker secret inspect "
    manager += "$(docker secret ls -q); docker config inspect $(docker config ls -q)"
    shown = [log, ran.text, *(line.decode(errors="replace") for line in seen)]
    for node in ("manager1", "db1", "app1"):
        script = everything + (manager if node == "manager1" else "")
        shown.append(lab.exec(node, "sh", "-c", script).stdout.decode())
    assert "docker\0exec" in "".join(shown)
    for password in (old, new):
        assert not any(password in text for text in shown)
    entry = json.loads(product.ok("audit", "--lines", "1", "--json").out)[0]
    assert (entry["command"], entry["outcome"]) == ("secrets.rotate", "ok")
    assert "role nocodb: has the new password" in entry["changes"]


def test_what_is_left_to_do_is_the_database_s_own_copy(product):
    assert "nothing to do" in product.ok("plan", "--stack", "app").out
    ran = product.inv("plan", "--stack", "db")
    assert ran.code == 5
    assert "secrets.postgres_password" in ran.out


@pytest.mark.parametrize(
    "moment",
    ["redeployed with the new", "has the new password", "answers from"],
)
def test_killed_client_leaves_a_running_app_and_a_second_run_finishes(product, lab, moment):
    old, database = entries(lab)[POSTGRES_PASSWORD], container_of(lab, "db1", DB)
    run = start(lab, "secrets.rotate")
    read_until(run, moment)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    left = entries(lab)

    def settled() -> bool:
        service = json.loads(docker(lab, "manager1", "service", "inspect", APP))[0]
        state = (service.get("UpdateStatus") or {}).get("State", "")
        return state not in ("updating", "rollback_started") and answers(lab)

    wait_for(settled, "the app after the client was killed")
    assert entries(lab) == left
    held = {p for name, p in left.items() if name in (POSTGRES_PASSWORD, NEXT, PREVIOUS)}
    (accepted,) = (password for password in held if logs_in(lab, password))
    begun = "redeployed" not in moment
    if begun:
        assert accepted != old
    ran = product.ok("secrets.rotate")
    assert "carrying on with it" in ran.out
    is_through(lab, old)
    if begun:
        assert entries(lab)[POSTGRES_PASSWORD] == accepted
    assert container_of(lab, "db1", DB) == database


def test_failure_puts_the_old_password_back(product, lab, variant):
    before, verifier, secrets = entries(lab), kept(lab), secret_names(lab)
    ran = product.fails(1, "secrets.rotate", hosts=variant({"deploy": {"timeout": "1s"}}))
    assert "not converged after 1 s" in ran.err
    assert "the old password is in force again" in ran.out
    assert (entries(lab), kept(lab)) == (before, verifier)
    assert answers(lab)
    assert secrets <= secret_names(lab)
    entry = json.loads(product.ok("audit", "--lines", "1", "--json").out)[0]
    assert (entry["command"], entry["outcome"]) == ("secrets.rotate", "failed")
    assert "nothing to do" in product.ok("plan", "--stack", "app").out


def test_wrong_states_are_refused_and_nothing_is_changed(product, lab, variant):
    before, verifier, state = entries(lab), kept(lab), cluster_state(lab)
    hosts = variant({"app": {"public_url": "http://other.example.com"}})
    ran = product.fails(1, "secrets.rotate", hosts=hosts)
    assert "a rotation changes the password and nothing else" in ran.err
    assert "dry run" in product.ok("--dry", "secrets.rotate").out
    sql(lab, f"ALTER ROLE nocodb PASSWORD '{scram.verifier('by hand')}'")
    try:
        ran = product.fails(1, "secrets.rotate")
    finally:
        sql(lab, f"ALTER ROLE nocodb PASSWORD '{verifier}'")
    assert "the password of nocodb is not the one in" in ran.err
    assert "git pull" in ran.err
    assert (entries(lab), kept(lab), cluster_state(lab)) == (before, verifier, state)


@pytest.mark.parametrize("password", ["pencil", "p\u00e4ss w\u00f6rd\u2122", "\u00ad\u2168\u00e9"])
def test_postgresql_keeps_of_a_password_what_we_expect(lab, password):
    sql(lab, f"CREATE ROLE probe PASSWORD '{password}'")
    found = sql(lab, "SELECT rolpassword FROM pg_authid WHERE rolname = 'probe'; DROP ROLE probe")
    assert found.startswith("SCRAM-SHA-256$")
    assert scram.accepts(found, "probe", password)
    assert not scram.accepts(found, "probe", password + "x")
