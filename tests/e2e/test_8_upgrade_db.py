"""PostgreSQL 15 to 17 for real, with NocoDB on it and a client that writes: cut off at every step,
typed again, undone, finished; every acknowledged row is there.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from fabfile.upgrade.database import removal
from tests.e2e import small_app
from tests.e2e.background import read_until, start
from tests.e2e.conftest import empty
from tests.e2e.live import (
    APP,
    DB,
    cluster_state,
    docker,
    eventually,
    nocodb_shows,
    sql,
)

TARGET = "17-trixie"
BROKEN = """FROM {image}
RUN printf '%s\\n' '#!/bin/sh' 'case "$*" in *swarmkeep-upgrade*)' \
  'exec docker-entrypoint.sh "$@";; esac; exit 1' >/copy-only && chmod 755 /copy-only
ENTRYPOINT ["/copy-only"]
"""
"""An image that starts for the copy, and not for the service."""


@pytest.fixture(scope="module", autouse=True)
def installed(deployed, product, lab, rows, stamp, postgres_17) -> Iterator[None]:
    sql(lab, "CREATE TABLE ledger (n int PRIMARY KEY)", "nocodb")
    sql(
        lab,
        "CREATE ROLE reader LOGIN PASSWORD 'old-md5'; GRANT SELECT ON ledger TO reader",
        "nocodb",
    )
    sql(lab, "ALTER SYSTEM SET work_mem = '5MB'")
    sql(lab, "CREATE DATABASE second")
    sql(lab, "ALTER DATABASE second SET work_mem = '6MB'")
    sql(lab, "SELECT lo_from_bytea(0, 'large')", "second")
    yield
    product.ok("deploy-db", "--leave-data", "--yes")
    eventually(lambda: is_up(lab))
    sql(lab, "DROP TABLE ledger; DROP ROLE reader", "nocodb")
    sql(lab, "ALTER SYSTEM RESET work_mem")
    sql(lab, "DROP DATABASE second")
    # As it was before the upgrade that was undone.
    sql(lab, "DROP DATABASE IF EXISTS ticker")
    sql(lab, "DROP ROLE IF EXISTS ticker")
    remove(lab, removal("dbstack_pgdata_17"))
    lab.exec("db1", "rm", "-rf", "/var/backups/postgres/.upgrade")
    product.ok("backup.run")
    product.ok("backup.accept", "--yes")


@pytest.fixture
def hosts(lab) -> Iterator[Path]:
    """A hosts file that --write may change."""
    path = lab.directory / "hosts-upgrade.yaml"
    path.write_text(f"# mine\n{lab.hosts_file.read_text()}")
    yield path
    path.unlink()


TICKER = "tickerstack_ticker"


@pytest.fixture
def ticker(product, lab, bucket, hosts, tmp_path) -> Iterator[None]:
    """Another app, which is deployed, backed up, and ends as soon as it loses its database."""
    compose = tmp_path / "ticker.yml"
    compose.write_text(small_app.compose("ticker", small_app.WRITER))
    vault = small_app.add(lab, hosts, compose, "ticker")
    product.ok("deploy-app", "ticker", hosts=hosts)
    product.ok("backup.install", hosts=hosts)
    product.ok("backup.run", hosts=hosts)
    product.ok("backup.drill", hosts=hosts)
    yield
    product.ok("app.remove", "ticker", "--yes", hosts=hosts)
    sql(lab, "DROP DATABASE ticker WITH (FORCE)")
    sql(lab, "DROP ROLE ticker")
    product.ok("backup.install")
    empty(bucket, lab, "postgres/ticker/")
    vault.unlink()


def major(lab) -> int:
    return int(sql(lab, "SHOW server_version_num")) // 10000


def is_up(lab) -> bool:
    shown = docker(lab, "manager1", "service", "ls", "--format", "{{.Name}} {{.Replicas}}")
    return {f"{APP} 1/1", f"{DB} 1/1"} <= set(shown.splitlines())


def left_over(lab) -> list[str]:
    """Containers and volumes of upgrades."""
    found = docker(lab, "db1", "ps", "-aq", "--filter", "label=swarmkeep.upgrade").split()
    return (
        found
        + docker(lab, "db1", "volume", "ls", "-q", "--filter", "label=swarmkeep.upgrade").split()
    )


class Writer:
    """A client that writes row after row, whatever becomes of the server."""

    def __init__(self, lab) -> None:
        self.acknowledged: set[int] = set()
        self._lab = lab
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        number = int(sql(self._lab, "SELECT coalesce(max(n), 0) FROM ledger", "nocodb"))
        while not self._end.is_set():
            number += 1
            try:
                sql(self._lab, f"INSERT INTO ledger VALUES ({number})", "nocodb")
            except AssertionError:
                continue
            self.acknowledged.add(number)

    def __enter__(self) -> Writer:
        self._thread.start()
        eventually(lambda: len(self.acknowledged) > 3)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(120)

    def goes_on(self) -> None:
        """Wait until it is let write again."""
        before = len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) > before + 3)


@contextmanager
def writer(lab) -> Iterator[Writer]:
    with Writer(lab) as one:
        yield one
    there = set(map(int, sql(lab, "SELECT n FROM ledger", "nocodb").split()))
    assert one.acknowledged <= there


def as_before(product, lab, rows) -> None:
    """All runs as it did, and nothing is left of the attempt."""
    eventually(lambda: is_up(lab))
    eventually(lambda: nocodb_shows(lab, rows))
    assert major(lab) == 15
    eventually(lambda: not left_over(lab), 60)


def remove(lab, said: str) -> None:
    """Remove the volume by the command that a user is told."""
    command = next(line for line in said.splitlines() if "docker volume rm" in line)
    command = command[command.index("docker ps -aq") :]
    assert lab.exec("db1", "sh", "-c", command).returncode == 0


def test_refused_before_anything_is_changed(product, lab, stamp):
    before = cluster_state(lab)
    product.fails(2, "upgrade-db")
    product.fails(2, "upgrade-db", "17")
    product.fails(2, "upgrade-db", TARGET, "--undo")
    product.fails(2, "upgrade-db", "14-bookworm", "--yes")
    assert "no upgrade is on record" in product.fails(1, "upgrade-db", "--undo", "--yes").err
    ran = product.fails(4, "upgrade-db", TARGET, "--yes")
    assert "nothing is upgraded without a set that was drilled" in ran.err
    product.ok("backup.drill")
    # Nobody can be asked.
    assert "run again with --yes" in product.fails(2, "upgrade-db", TARGET).err
    assert cluster_state(lab) == before
    assert left_over(lab) == []


def test_rehearsed_while_all_goes_on(product, lab):
    before = cluster_state(lab)
    with writer(lab) as one:
        assert "rehearsed: " in product.ok("upgrade-db", TARGET, "--rehearse").out
        one.goes_on()
    assert cluster_state(lab) == before
    assert left_over(lab) == []


def test_what_is_in_the_way_is_named(product, lab):
    sql(lab, "CREATE TABLE prepared (n int)", "nocodb")
    sql(lab, 'CREATE DATABASE "odd name"')
    try:
        ran = product.fails(2, "upgrade-db", TARGET, "--yes")
        assert (
            "database 'odd name' has a name that is not supported; nothing was changed" in ran.err
        )
    finally:
        sql(lab, 'DROP DATABASE "odd name"')
        sql(lab, "DROP TABLE prepared", "nocodb")


def test_client_that_is_killed_while_it_copies(product, lab, rows):
    with writer(lab) as one:
        client = start(lab, "upgrade-db", TARGET, "--yes")
        read_until(client, "copying database nocodb")
        os.kill(client.pid, signal.SIGKILL)
        client.wait(20)
        one.goes_on()
    as_before(product, lab, rows)


def test_script_that_is_killed_while_it_copies(product, lab, rows):
    with writer(lab) as one:
        client = start(lab, "upgrade-db", TARGET, "--yes")
        read_until(client, "copying database nocodb")
        lab.exec("db1", "pkill", "-9", "-f", "upgrade-pg.sh copy")
        _, err = client.communicate(timeout=300)
        assert client.returncode == 1
        assert err.startswith("error: ")
        one.goes_on()
    eventually(lambda: is_up(lab))
    # What a script that was killed hard has left, the next one removes.
    product.ok("upgrade-db", TARGET, "--rehearse")
    as_before(product, lab, rows)


def test_what_changes_meanwhile_all_the_same_ends_it(product, lab, rows):
    """A new table is not kept away: it would be lost."""
    client = start(lab, "upgrade-db", TARGET, "--yes")
    read_until(client, "copying database nocodb")
    sql(lab, "CREATE TABLE meanwhile (n int)", "nocodb")
    _, err = client.communicate(timeout=300)
    sql(lab, "DROP TABLE meanwhile", "nocodb")
    assert client.returncode == 4, err
    assert "has changed meanwhile" in err
    assert "meanwhile (n int)" not in err
    as_before(product, lab, rows)


def test_image_that_does_not_start_as_a_service(product, lab, rows, postgres_17):
    tag = postgres_17.replace("trixie", "broken")
    build = ["docker", "build", "--tag", tag, "-"]
    assert lab.exec("db1", *build, input=BROKEN.format(image=postgres_17).encode()).returncode == 0
    with writer(lab) as one:
        ran = product.fails(1, "upgrade-db", "17-broken", "--yes")
        one.goes_on()
    eventually(lambda: is_up(lab))
    assert major(lab) == 15
    assert nocodb_shows(lab, rows)
    remove(lab, ran.text)
    docker(lab, "db1", "image", "rm", "--force", tag)


def test_upgraded_under_a_client_that_writes(product, lab, rows, hosts, ticker):
    before = docker(lab, "manager1", "service", "inspect", "-f", "{{.Version.Index}}", APP)
    of_before = hosts.with_name("hosts-of-before.yaml")
    of_before.write_text(hosts.read_text())
    with writer(lab) as one:
        ran = product.ok("upgrade-db", TARGET, "--yes", "--write", hosts=hosts)
        one.goes_on()
    assert major(lab) == 17
    assert before != ""
    assert nocodb_shows(lab, rows)
    # The other app was stopped, too, instead of losing its database.
    assert "NocoDB and ticker were stopped for " in ran.out
    ended = docker(lab, "manager1", "service", "ps", "--format", "{{.CurrentState}}", TICKER)
    assert "Failed" not in ended
    ticks = sql(lab, "SELECT max(n) FROM ticks", "ticker")
    eventually(lambda: sql(lab, "SELECT max(n) FROM ticks", "ticker") != ticks, 30)
    assert sql(lab, "SHOW work_mem") == "5MB"
    assert sql(lab, "SELECT has_table_privilege('reader', 'ledger', 'SELECT')", "nocodb") == "t"
    assert sql(lab, "SHOW work_mem", "second") == "6MB"
    assert sql(lab, "SELECT lo_get(oid) FROM pg_largeobject_metadata", "second") == "\\x6c61726765"
    # The file says what runs, and the rest of it is as it was.
    text = hosts.read_text()
    assert text.startswith("# mine\n")
    assert yaml.safe_load(text)["db"]["volume"] == "pgdata_17"
    assert "nothing to do" in product.ok("plan", hosts=hosts).out
    product.ok("backup.verify", hosts=hosts)
    listed = product.ok("backup.list", "--database", "nocodb", "--json", hosts=hosts).out
    newest = json.loads(listed)["backups"][0]
    product.ok("backup.drill", "--key", newest["set"], hosts=hosts)
    # The file of before leads nowhere.
    assert "runs PostgreSQL 17" in product.fails(2, "deploy-db", "--yes", hosts=of_before).err
    of_before.unlink()


def test_undone_and_what_was_written_since_is_said(product, lab, rows, hosts):
    written = sql(lab, "INSERT INTO ledger SELECT max(n) + 1 FROM ledger RETURNING n", "nocodb")
    ran = product.ok("upgrade-db", "--undo", "--yes", "--write", hosts=hosts)
    assert "left behind: " in ran.out
    assert " 0 inserted" not in ran.out.partition("left behind")[2]
    unfinished = lab.exec("db1", "find", "/var/backups/postgres/.upgrade", "-name", "*.partial*")
    assert unfinished.returncode == 0
    assert unfinished.stdout == b""
    assert major(lab) == 15
    assert written not in sql(lab, "SELECT n FROM ledger", "nocodb").split()
    assert nocodb_shows(lab, rows)
    product.ok("backup.verify")
    assert "nothing to do" in product.ok("plan", hosts=hosts).out
    # What was written in the newer one is nothing to be overwritten by the way.
    product.ok("backup.drill")
    ran = product.fails(2, "upgrade-db", TARGET, "--yes")
    assert "volume dbstack_pgdata_17 is there already" in ran.err
    remove(lab, ran.text)


def test_client_that_is_killed_after_the_switch_typed_again_and_finished(product, lab, rows, hosts):
    with writer(lab) as one:
        client = start(lab, "upgrade-db", TARGET, "--yes")
        read_until(client, "node db1: swarmkeep.cluster")
        os.kill(client.pid, signal.SIGKILL)
        client.wait(20)
        one.goes_on()
    eventually(lambda: is_up(lab))
    assert major(lab) == 17
    product.ok("upgrade-db", TARGET, "--yes", "--write", hosts=hosts)
    assert nocodb_shows(lab, rows)
    assert "nothing to do" in product.ok("plan", hosts=hosts).out
    product.ok("backup.verify", hosts=hosts)
    ran = product.ok("upgrade-db", "--finish", hosts=hosts)
    assert ran.out.endswith("; docker volume rm dbstack_pgdata\n")
    product.fails(1, "upgrade-db", "--undo", "--yes", hosts=hosts)
