"""A restore in place of the live database, its undo, and what is left when something dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.background import read_until, start
from tests.e2e.live import (
    APP,
    DB,
    container_of,
    databases,
    docker,
    eventually,
    named,
    nocodb_shows,
    sql,
)

SCRIPT = "/usr/local/bin/restore-pg.sh"

pytestmark = pytest.mark.usefixtures("stamp", "tidy")


def replicas(lab) -> str:
    form = "{{.Spec.Mode.Replicated.Replicas}} {{json .Spec.Labels}}"
    return docker(lab, "manager1", "service", "inspect", "--format", form, APP)


WRITER = """
while [ ! -e /root/stop-writing ]; do
  docker exec "$1" psql -qU nocodb -d nocodb -c 'CREATE TABLE IF NOT EXISTS written (n int)' \
    -c 'INSERT INTO written VALUES (1)' -c 'SELECT pg_sleep(0.2)' >/dev/null 2>&1
done
"""


@pytest.fixture
def writer(lab) -> Iterator[None]:
    """A client that keeps writing into the live database, and comes back when it is thrown out."""
    container = container_of(lab, "db1", DB)
    command = ["docker", "exec", lab.container("db1"), "sh", "-c", WRITER, "sh", container]
    client = subprocess.Popen(command)
    try:
        yield
    finally:
        lab.exec("db1", "touch", "/root/stop-writing")
        client.wait(30)
        lab.exec("db1", "rm", "/root/stop-writing")


@pytest.fixture
def marker(lab) -> Iterator[None]:
    """A table in the live database that no backup has: where it goes, the live data went."""
    sql(lab, "CREATE TABLE marker (n int)", "nocodb")
    yield
    sql(lab, "DROP TABLE IF EXISTS marker", "nocodb")


def marked(lab) -> list[str]:
    """The databases that have it."""
    there = "SELECT to_regclass('marker') IS NOT NULL"
    return [name for name in sorted(databases(lab)) if sql(lab, there, name) == "t"]


def written(lab, database: str) -> int:
    """How many rows the writer has in a database."""
    if sql(lab, "SELECT to_regclass('written') IS NULL", database) == "t":
        return 0
    return int(sql(lab, "SELECT count(*) FROM written", database))


class TestReplace:
    def test_under_a_client_that_writes_then_undone(
        self, product, lab, rows, stamp, marker, writer
    ):
        assert (
            "there is no terminal to ask on" in product.fails(2, "backup.restore", "--replace").err
        )
        eventually(lambda: written(lab, "nocodb") > 0)
        before = written(lab, "nocodb")
        ran = product.ok("backup.restore", "--key", stamp, "--replace", "--yes")
        kept = named(lab, "nocodb_replaced_")
        assert len(kept) == 1
        last = ran.out.splitlines()[-1]
        assert last.endswith(f"is kept as {kept[0]}; to go back to it: inv backup.swap {kept[0]}")
        assert f"the one before will be kept as {kept[0]}" in ran.out
        assert nocodb_shows(lab, rows)
        assert marked(lab) == kept
        # Whatever was written until the change is in the one that is kept.
        in_kept = written(lab, kept[0])
        assert in_kept >= before
        product.ok("backup.swap", kept[0], "--yes")
        assert marked(lab) == ["nocodb"]
        assert written(lab, "nocodb") >= in_kept
        assert nocodb_shows(lab, rows)
        assert "nothing to do" in product.ok("plan").out
        log = json.loads(product.ok("audit", "--json").out)
        assert [e["command"] for e in log[-2:]] == [
            f"backup.restore {stamp} --replace",
            f"backup.swap {kept[0]}",
        ]

    def test_app_that_does_not_answer_afterwards_gets_its_database_back(self, product, lab, rows):
        sql(lab, "CREATE DATABASE broken")
        sql(lab, "ALTER DATABASE broken SET search_path TO nowhere")
        ran = product.fails(1, "backup.swap", "broken", "--yes", timeout=600)
        assert "the databases were swapped back: all is as it was" in ran.err
        assert databases(lab) == {"nocodb", "broken"}
        assert nocodb_shows(lab, rows)


STEPS = ["restoring set=", "restore complete", "stopping it", "swapped:", "starting it"]


def begin_replace(lab, stamp: str, step: str) -> subprocess.Popen[str]:
    """A replace, brought to where it says this."""
    client = start(lab, "backup.restore", "--key", stamp, "--replace", "--yes")
    read_until(client, step)
    return client


def all_is_well(product, lab, rows, stamp, *, swapped: bool) -> None:
    """The live database is whole, the app runs on it, nothing is in the way of the next one.

    No data is lost: what was the live database is that still, or, if `swapped`, is kept.
    """
    eventually(lambda: lab.exec("manager1", "pgrep", "-f", "[t]rap back EXIT").returncode != 0)
    eventually(lambda: is_up(lab))
    eventually(lambda: nocodb_shows(lab, rows))
    eventually(lambda: lab.exec("db1", "pgrep", "-f", SCRIPT).returncode != 0)
    kept, restored = named(lab, "nocodb_replaced_"), named(lab, "nocodb_restored_")
    assert marked(lab) == (kept if swapped else ["nocodb"])
    assert len(kept) == (1 if swapped else 0)
    assert len(restored) <= (0 if swapped else 1)
    product.ok("backup.restore", "--key", stamp, "--into", "afterwards")
    assert databases(lab) == {"nocodb", "afterwards", *kept, *restored}


def is_up(lab) -> bool:
    return replicas(lab).startswith("1 ") and "swarmkeep.replicas" not in replicas(lab)


# Kills the guard once it has scaled the app down. The pattern matches the guard, not who looks.
KILL_GUARD = f"""
until [ "$(docker service inspect -f '{{{{.Spec.Mode.Replicated.Replicas}}}}' {APP})" = 0 ]; do
  sleep 0.05
done
pkill -9 -f '[t]rap back EXIT'
"""


@pytest.mark.usefixtures("marker")
class TestKilled:
    @pytest.mark.parametrize("step", STEPS)
    def test_client(self, product, lab, rows, stamp, step):
        client = begin_replace(lab, stamp, step)
        os.kill(client.pid, signal.SIGKILL)
        client.wait(20)
        all_is_well(product, lab, rows, stamp, swapped=step in STEPS[3:])
        # The lock of a client that was killed here is no hindrance.
        if step == STEPS[-1]:
            product.ok("backup.restore", "--key", stamp, "--replace", "--yes")
            assert nocodb_shows(lab, rows)

    def test_script_that_restores(self, product, lab, rows, stamp):
        client = begin_replace(lab, stamp, "restoring set=")
        hunter = hunt(lab, "restore")
        out = "".join(client.communicate(timeout=300))
        hunter.wait(20)
        assert client.returncode == 1, out
        assert "error: " in out
        all_is_well(product, lab, rows, stamp, swapped=False)

    def test_script_that_swaps(self, product, lab, rows, stamp):
        hunter = hunt(lab, "swap")
        client = begin_replace(lab, stamp, "stopping it")
        out = "".join(client.communicate(timeout=300))
        hunter.wait(20)
        # Its sessions may have changed the names before they ended: the server was asked.
        swapped = client.returncode == 0
        if swapped:
            assert "all the same: nocodb_restored_" in out
            assert "NocoDB answers from its database" in out
        else:
            # With 3, it was killed before it had said a word.
            assert client.returncode in (1, 3), out
            assert f"is still there: inv backup.swap {named(lab, 'nocodb_restored_')[0]}" in out
        all_is_well(product, lab, rows, stamp, swapped=swapped)

    @pytest.mark.parametrize("step", ["stopping it", "swapped:"])
    def test_guard(self, product, lab, rows, stamp, step):
        kill = ["docker", "exec", lab.container("manager1"), "sh", "-c", KILL_GUARD]
        # With the first line it is about to scale down; with the other, about to scale up.
        hunter = subprocess.Popen(kill) if step == "stopping it" else None
        client = begin_replace(lab, stamp, step)
        if not hunter:
            lab.exec("manager1", "pkill", "-9", "-f", "[t]rap back EXIT")
        out = "".join(client.communicate(timeout=300))
        # Whatever else is said: the app is on its way up.
        assert is_up(lab), out
        swapped = client.returncode == 0
        if swapped:
            assert "NocoDB answers from its database" in out
        else:
            assert (client.returncode, step) == (1, "stopping it"), out
            assert "its guard on manager1 ended without an answer; nothing was swapped" in out
        if hunter:
            assert hunter.wait(20) == 0
        all_is_well(product, lab, rows, stamp, swapped=swapped)


def hunt(lab, what: str) -> subprocess.Popen[bytes]:
    """Kills the script hard as soon as it does this. The pattern matches it, not who looks."""
    kill = f"until pkill -9 -f '[r]estore-pg.sh {what}'; do sleep 0.02; done"
    return subprocess.Popen(["docker", "exec", lab.container("db1"), "sh", "-c", kill])
