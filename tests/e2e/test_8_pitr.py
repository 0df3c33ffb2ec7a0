"""Point-in-time recovery: back to a second, to a mark, to the end; and what verify says of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
import yaml

from tests.e2e.conftest import merged
from tests.e2e.live import DB, container_of, databases, docker, eventually, sql

SCRIPT = "/usr/local/bin/wal-pg.sh"
ON = {"backup": {"pitr": True}}

pytestmark = pytest.mark.usefixtures("tidy")


def archive(lab, *, code: int = 0) -> str:
    """Run the archiver once, as cron does, and return its log. It waits for one that runs."""
    end = time.monotonic() + 60
    while True:
        done = lab.exec("db1", SCRIPT, "archive")
        said = str(done.stderr.decode())
        if done.returncode != 10 or time.monotonic() > end:
            break
        time.sleep(0.5)
    assert done.returncode == code, f"{done.returncode}: {said}"
    return said


def now() -> str:
    """A whole second after which nothing has happened yet, and before which everything has."""
    when = datetime.now(UTC).replace(microsecond=0)
    eventually(lambda: datetime.now(UTC).timestamp() >= when.timestamp() + 1, 3)
    later = datetime.now(UTC).replace(microsecond=0)
    eventually(lambda: datetime.now(UTC).timestamp() >= later.timestamp() + 1, 3)
    return f"{later:%Y-%m-%d %H:%M:%S}"


def chain_is_good(product, hosts) -> bool:
    """Whether verify finds nothing wrong with base backup and WAL."""
    said = product.inv("backup.verify", hosts=hosts).out
    lines = [line.split() for line in said.splitlines()]
    return {word[1] for word in lines if word[:1] == ["ok"]} >= {"wal", "chain", "base"}


@pytest.fixture(scope="module")
def pitr(deployed, product, lab, tmp_path_factory):
    """WAL is archived, and there is a base backup with WAL after it."""
    hosts = lab.directory / "hosts-pitr.yaml"
    hosts.write_text(yaml.safe_dump(merged(yaml.safe_load(lab.hosts_file.read_text()), ON)))
    product.ok("backup.install", hosts=hosts)
    product.ok("backup.run", hosts=hosts)
    archive(lab)
    eventually(lambda: lab.exec("db1", "test", "-f", NEWEST_BASE).returncode == 0)
    archive(lab)
    yield hosts
    product.ok("backup.install")
    hosts.unlink()


NEWEST_BASE = "/var/backups/postgres/.wal/newest-base"


def test_back_to_the_second_before_a_table_was_dropped(product, lab, pitr):
    sql(lab, "CREATE TABLE work AS SELECT n FROM generate_series(1, 1000) n", "nocodb")
    when = now()
    # What comes first after that second is the drop: it is under way when the replay stops.
    sql(lab, "DROP TABLE work", "nocodb")
    timeline = sql(lab, "SELECT timeline_id FROM pg_control_checkpoint()")
    refused = product.fails(4, "backup.restore", "--at", "2020-01-01", hosts=pitr)
    assert "you can restore to any second between" in refused.err
    archive(lab)
    ran = product.ok("backup.restore", "--at", when, "--into", "back", hosts=pitr)
    assert f"restored: nocodb, into back, as it was at {when} UTC" in ran.out
    assert "as recorded" in ran.out
    assert sql(lab, "SELECT count(*), max(n) FROM work", "back") == "1000|1000"
    assert sql(lab, "SELECT to_regclass('work') IS NULL", "nocodb") == "t"
    # The live cluster has replayed nothing.
    assert sql(lab, "SELECT timeline_id FROM pg_control_checkpoint()") == timeline
    nothing_is_left(lab)


def test_verify_says_from_when_to_when(product, lab, pitr):
    archive(lab)
    said = product.ok("backup.verify", hosts=pitr).out
    assert "nocodb: can restore any second from " in said
    for name in ("wal", "chain", "base"):
        assert f" ok   {name} " in said


def test_to_a_mark_in_place_of_the_live_database_and_undone(product, lab, pitr):
    sql(lab, "CREATE TABLE marked (n int)", "nocodb")
    ran = product.ok("backup.mark", "before-cleaning", hosts=pitr)
    assert "inv backup.restore --at-mark before-cleaning" in ran.out
    sql(lab, "DROP TABLE marked", "nocodb")
    archive(lab)
    ran = product.ok(
        "backup.restore", "--at-mark", "before-cleaning", "--replace", "--yes", hosts=pitr
    )
    assert sql(lab, "SELECT count(*) FROM marked", "nocodb") == "0"
    kept = next(name for name in databases(lab) if "_replaced_" in name)
    product.ok("backup.swap", kept, "--yes", hosts=pitr)
    assert sql(lab, "SELECT to_regclass('marked') IS NULL", "nocodb") == "t"
    unknown = product.fails(4, "backup.restore", "--at-mark", "nobody", hosts=pitr)
    assert "there are: " in unknown.err
    assert "before-cleaning" in unknown.err


def test_a_database_that_was_dropped(product, lab, pitr):
    sql(lab, "CREATE DATABASE other")
    sql(lab, "CREATE TABLE kept AS SELECT 1 AS n", "other")
    hosts = pitr.with_name("hosts-pitr-two.yaml")
    hosts.write_text(pitr.read_text().replace("pg_db: nocodb", "pg_db: [nocodb, other]"))
    try:
        product.ok("backup.install", hosts=hosts)
        archive(lab)
        when = now()
        sql(lab, "DROP DATABASE other WITH (FORCE)")
        archive(lab)
        words = ("backup.restore", "--database", "other", "--into", "other", "--at")
        # No commit lies between that second and the drop, which removes files before it commits.
        refused = product.fails(4, *words, when, hosts=hosts)
        assert "database other was being dropped at" in refused.err
        earlier = refused.err.split("--at '")[1].split("'")[0]
        ran = product.ok(*words, earlier, hosts=hosts)
        assert "into other, as it was at" in ran.out
        assert sql(lab, "SELECT n FROM kept", "other") == "1"
    finally:
        hosts.unlink()
        product.ok("backup.install", hosts=pitr)


def test_the_whole_chain_is_drilled(product, lab, pitr):
    archive(lab)
    ran = product.ok("backup.drill", "--at", "now", hosts=pitr)
    assert "drilled: base backup and WAL replayed to the end; nocodb has " in ran.out
    assert " ok   replayed " in product.ok("backup.verify", hosts=pitr).out
    listed = product.ok("backup.list", hosts=pitr).out
    assert "leads to now" in listed
    assert "any second between " in listed
    nothing_is_left(lab)


def test_a_deploy_of_the_app_sets_a_mark(product, lab, pitr):
    hosts = pitr.with_name("hosts-pitr-mark.yaml")
    data = yaml.safe_load(pitr.read_text())
    data["app"]["public_url"] = "http://192.0.2.1:8080"
    hosts.write_text(yaml.safe_dump(data))
    try:
        ran = product.ok("deploy-app", hosts=hosts)
        assert "inv backup.restore --at-mark deploy-app --replace" in ran.out
        archive(lab)
        assert "mark deploy-app, " in product.ok("backup.list", hosts=hosts).out
    finally:
        hosts.unlink()
        product.ok("deploy-app")


def test_cut_off_and_typed_again(product, lab, pitr):
    archive(lab)
    script = "/usr/local/bin/restore-pg.sh restore --database nocodb --at end --into again"
    for phase in ("replay.partial/wal", "point.partial.dump"):
        lab.exec("db1", "sh", "-c", f"setsid {script} >/tmp/cut.log 2>&1 &")
        seen = f"ls -d /var/backups/postgres/nocodb/{phase}* >/dev/null 2>&1"
        eventually(lambda seen=seen: lab.exec("db1", "sh", "-c", seen).returncode == 0, 60)
        lab.exec("db1", "pkill", "-9", "-f", "restore-pg.sh restore")
        eventually(
            lambda: lab.exec("db1", "pgrep", "-f", "restore-pg.sh restore").returncode != 0, 30
        )
    product.ok("backup.restore", "--at", "now", "--into", "again", hosts=pitr)
    assert "again" in databases(lab)
    nothing_is_left(lab)


def test_switched_off_and_on_again(product, lab, pitr):
    ran = product.ok("backup.install")
    assert "db1: point-in-time recovery ended: the replication slot is dropped" in ran.out
    assert sql(lab, "SELECT count(*) FROM pg_replication_slots") == "0"
    assert sql(lab, "SHOW max_slot_wal_keep_size") == "-1"
    assert "pg_receivewal" not in docker(lab, "db1", "top", container_of(lab, "db1", DB))
    sql(lab, "CREATE TABLE meanwhile AS SELECT 1 AS n; SELECT pg_switch_wal()", "nocodb")
    product.ok("backup.install", hosts=pitr)
    archive(lab)
    # The old base backup does not lead here any more: a new one is made by itself.
    eventually(lambda: lab.exec("db1", "test", "-f", NEWEST_BASE).returncode == 0)
    archive(lab)
    assert chain_is_good(product, pitr)
    product.ok("backup.restore", "--at", "now", "--into", "on_again", hosts=pitr)
    assert sql(lab, "SELECT n FROM meanwhile", "on_again") == "1"
    sql(lab, "DROP TABLE meanwhile", "nocodb")


def nothing_is_left(lab) -> None:
    """No throwaway container, no volume of one, no unfinished file or database."""
    assert docker(lab, "db1", "ps", "-aq", "--filter", "label=swarmkeep.drill") == ""
    assert docker(lab, "db1", "volume", "ls", "-q") == "dbstack_pgdata"
    # The archiver has a folder in memory of its own.
    pieces = "/dev/shm/backup-pieces.$(stat -c %d-%i /var/backups/postgres/.lock)"
    left = f"ls -d /var/backups/postgres/nocodb/*.partial* {pieces} 2>/dev/null"
    assert lab.exec("db1", "sh", "-c", left).stdout.decode() == ""
    assert not [name for name in databases(lab) if name.startswith("swarmkeep_restoring_")]
