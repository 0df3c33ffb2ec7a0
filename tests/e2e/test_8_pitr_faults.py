"""What can go wrong with WAL and base backups, each caused for real: nothing that was archived is
lost, production goes on, and verify never says "ok" of what cannot be restored.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import yaml

from tests.e2e.live import DB, container_of, docker, eventually, sql
from tests.e2e.test_8_pitr import SCRIPT, archive, chain_is_good, now, pitr

__all__ = ["pitr"]  # the fixture

CONFIG = "/etc/backup-pg.conf"
SPOOL = "/var/lib/docker/volumes/dbstack_pgdata/_data/swarmkeep-wal"

pytestmark = pytest.mark.usefixtures("tidy")


def receivers(lab) -> list[str]:
    """The processes of pg_receivewal, by their ids on the node."""
    shown = docker(lab, "db1", "top", container_of(lab, "db1", DB), "-eo", "pid,args")
    lines = [line for line in shown.splitlines() if "pg_receivewal" in line]
    return [line.split()[0] for line in lines if "-S swarmkeep" in line]


def new_chain(product, lab, hosts) -> None:
    """Have a base backup made now, whatever the last one led to."""
    # The archiver may just have begun one by itself.
    eventually(lambda: product.inv("backup.base", hosts=hosts).code == 0, 60)
    archive(lab)
    assert chain_is_good(product, hosts)


def doctor_on_wal(product, hosts) -> dict[str, tuple[bool, str]]:
    """What doctor says of point-in-time recovery: check -> ok, detail."""
    checks = json.loads(product.inv("doctor", "--json", hosts=hosts).out)["checks"]
    return {
        check["name"].removeprefix("wal "): (check["ok"], check["detail"])
        for check in checks
        if check["name"].startswith("wal")
    }


def test_receiver_that_was_killed_goes_on_where_it_was(product, lab, pitr):
    sql(lab, "DROP TABLE IF EXISTS received; CREATE TABLE received (n int)", "nocodb")
    [process] = receivers(lab)
    lab.exec("db1", "kill", "-9", process)
    sql(lab, "INSERT INTO received VALUES (1); SELECT pg_switch_wal()", "nocodb")
    archive(lab)
    [another] = receivers(lab)
    assert another != process
    assert chain_is_good(product, pitr)
    # One that runs is left alone.
    archive(lab)
    assert receivers(lab) == [another]
    found = doctor_on_wal(product, pitr)
    assert set(found) == {"rights", "slot", "spool", "disk"}
    assert all(ok for ok, _ in found.values()), found


def test_receiver_that_was_killed_before_its_file_had_its_size(product, lab, pitr):
    """It fills a new file with zeros first, and refuses to start beside one of another size."""
    with without_cron(lab):
        [process] = receivers(lab)
        lab.exec("db1", "kill", "-9", process)
        eventually(lambda: not receivers(lab))
        cut = f"truncate -s 139264 {SPOOL}/*.partial && stat -c %s {SPOOL}/*.partial"
        assert lab.exec("db1", "sh", "-c", cut).stdout == b"139264\n"
        sql(lab, "CREATE TABLE filled (n int); DROP TABLE filled", "nocodb")
        archive(lab)
        assert len(receivers(lab)) == 1
    assert chain_is_good(product, pitr)


SLOW = {
    "before": 'touch /root/slow/now; sleep 60; exec /usr/bin/aws "$@"',
    "after": '/usr/bin/aws "$@"; touch /root/slow/now; sleep 60',
}
"""AWS CLIs that wait, before and after they have done what they should."""


@pytest.mark.parametrize("stage", list(SLOW))
def test_uploader_that_is_killed(product, lab, pitr, stage):
    """Before and after the upload of a segment: it is uploaded once more, or known to be there."""
    put = "mkdir -p /root/slow && cat >/root/slow/aws && chmod 755 /root/slow/aws"
    lab.exec("db1", "sh", "-c", put, input=f"#!/bin/sh\n{SLOW[stage]}\n".encode())
    change = f"cat {CONFIG} >/root/slow/conf; echo 'PATH=/root/slow:$PATH' >>/root/slow/conf"
    lab.exec("db1", "sh", "-c", f"umask 077; {change}")
    with without_cron(lab):
        slow = f"setsid {SCRIPT} archive --config /root/slow/conf >/dev/null 2>&1 &"
        lab.exec("db1", "sh", "-c", slow)
        try:
            eventually(lambda: lab.exec("db1", "test", "-e", "/root/slow/now").returncode == 0, 60)
        finally:
            lab.exec("db1", "pkill", "-9", "-f", f"{SCRIPT} archive --config /root/slow/conf")
            lab.exec("db1", "pkill", "-9", "-f", "/root/slow/aws")
            lab.exec("db1", "rm", "-rf", "/root/slow")
        archive(lab)
    assert chain_is_good(product, pitr)


def nothing_of_cron(lab) -> bool:
    """Whether no run of cron's is under way. A child of its that has begun, and is not the script
    yet, is called cron, too.
    """
    words = (("-x", "cron"), ("-f", f"{SCRIPT} archive"))
    return all(lab.exec("db1", "pgrep", *one).returncode == 1 for one in words)


@contextmanager
def without_cron(lab) -> Iterator[None]:
    """Cron's own runs are over, and none begins, for the length of the block."""
    assert lab.exec("db1", "service", "cron", "stop").returncode == 0
    try:
        eventually(lambda: nothing_of_cron(lab))
        yield
        assert nothing_of_cron(lab), "cron has begun again by itself"
    finally:
        assert lab.exec("db1", "service", "cron", "start").returncode == 0


def test_container_that_is_killed_while_it_is_written_to_loses_no_commit(product, lab, pitr):
    sql(lab, "CREATE TABLE ledger (n int PRIMARY KEY)", "nocodb")
    with written(lab) as acknowledged:
        eventually(lambda: len(acknowledged) > 20)
        docker(lab, "db1", "kill", "--signal", "KILL", container_of(lab, "db1", DB))
    eventually(lambda: answers(lab), 120)
    archive(lab)
    product.ok("backup.restore", "--at", "now", "--into", "survived", hosts=pitr)
    there = set(map(int, sql(lab, "SELECT n FROM ledger", "survived").split()))
    assert set(acknowledged) <= there
    assert chain_is_good(product, pitr)
    sql(lab, "DROP TABLE ledger", "nocodb")


@contextmanager
def written(lab) -> Iterator[list[int]]:
    """A client that writes one row after the other; those that were acknowledged. It ends with the
    server, or with the block.
    """
    acknowledged: list[int] = []
    end = threading.Event()

    def write() -> None:
        with suppress(AssertionError):
            for number in range(100_000):
                if end.is_set():
                    return
                sql(lab, f"INSERT INTO ledger VALUES ({number})", "nocodb")
                acknowledged.append(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield acknowledged
    finally:
        end.set()
        thread.join(60)


def answers(lab) -> bool:
    try:
        return sql(lab, "SELECT 1", "nocodb") == "1"
    except AssertionError:
        return False


def test_node_that_is_restarted(product, lab, pitr):
    """Everything on it ends; the WAL goes on where it was, and nothing is started by hand."""
    new_chain(product, lab, pitr)
    sql(lab, "CREATE TABLE ledger (n int PRIMARY KEY)", "nocodb")
    sql(lab, "CREATE UNLOGGED TABLE passing AS SELECT 1 AS n", "nocodb")
    with written(lab) as acknowledged:
        eventually(lambda: len(acknowledged) > 5)
        lab.restart("db1")
    eventually(lambda: answers(lab), 120)
    # By cron, which has begun again, too.
    eventually(lambda: bool(receivers(lab)), 90)
    archive(lab)
    product.ok("backup.restore", "--at", "now", "--into", "restarted", hosts=pitr)
    there = set(map(int, sql(lab, "SELECT n FROM ledger", "restarted").split()))
    assert set(acknowledged) <= there
    assert there == set(range(len(there)))
    # As PostgreSQL documents it: a replay has nothing of an unlogged table but the table.
    assert sql(lab, "SELECT count(*) FROM passing", "restarted") == "0"
    assert chain_is_good(product, pitr)
    sql(lab, "DROP TABLE ledger, passing", "nocodb")


def test_volume_that_was_set_back_to_a_snapshot(product, lab, pitr):
    """Its WAL is another history under the names of the one before: a new chain begins."""
    new_chain(product, lab, pitr)
    with without_cron(lab):
        # As if the bucket had what this server has not come to yet.
        ahead = "s/^LAST=.*/LAST=0000000100000000000000FF/"
        lab.exec("db1", "sed", "-i", ahead, "/var/backups/postgres/.wal/state")
        said = archive(lab, code=32)
        assert "its volume was set back" in said
        assert "begins by itself" in said
        eventually(lambda: chain_after(lab, product, pitr), 90)
    product.ok("backup.restore", "--at", "now", "--into", "anew", hosts=pitr)


def test_disk_that_is_full(product, lab, pitr):
    """Nothing is lost: what cannot be compressed stays in the spool, and goes up later."""
    new_chain(product, lab, pitr)
    with without_cron(lab):
        # Where segments wait, compressed, with a note of whom they are encrypted for: nobody.
        folder = "/var/backups/postgres/.wal/outgoing"
        small = f"mkdir -p {folder} && mount -t tmpfs -o size=8k tmpfs {folder}"
        mounted = lab.exec("db1", "sh", "-c", f"{small} && printf ' ' >{folder}/.for")
        assert mounted.returncode == 0, mounted.stderr
        # An idle NocoDB may have written nothing since.
        sql(lab, "CREATE TABLE written (n int); DROP TABLE written", "nocodb")
        try:
            said = archive(lab, code=15)
            assert "could not be compressed" in said
            assert "the free space of" in said
            assert segments_in_spool(lab) > 1
        finally:
            lab.exec("db1", "umount", folder)
        archive(lab)
        assert segments_in_spool(lab) == 1
        assert chain_is_good(product, pitr)


def segments_in_spool(lab) -> int:
    """How many finished segments wait there, the last one that was uploaded included."""
    return int(lab.exec("db1", "sh", "-c", f"ls {SPOOL} | grep -cE '^[0-9A-F]{{24}}$'").stdout)


def test_slot_that_somebody_dropped(product, lab, pitr):
    """As long as PostgreSQL still has the WAL, nothing is missing."""
    new_chain(product, lab, pitr)
    with without_cron(lab):
        drop_slot(lab)
        sql(lab, "SELECT pg_switch_wal()")
        assert "slot swarmkeep is gone" in archive(lab)
        assert chain_is_good(product, pitr)


def test_slot_that_somebody_dropped_and_the_wal_is_gone(product, lab, pitr):
    new_chain(product, lab, pitr)
    before = now()
    archive(lab)
    with without_cron(lab):
        drop_slot(lab)
        for _ in range(4):
            sql(lab, "SELECT pg_switch_wal(); CREATE TABLE gone (n int)", "nocodb")
            sql(lab, "DROP TABLE gone", "nocodb")
            sql(lab, "CHECKPOINT")
        assert "WAL is missing between segments" in archive(lab, code=32)
        eventually(lambda: chain_after(lab, product, pitr), 90)
        archive(lab)
    # What was archived before is as good as it was; what lies in the gap is out of reach.
    product.ok("backup.restore", "--at", before, "--into", "earlier", hosts=pitr)
    listed = product.ok("backup.list", hosts=pitr).out
    assert listed.count("any second between") >= 2


def test_segments_that_somebody_removed_from_the_spool(product, lab, pitr):
    """Nobody has them any more: it is said, and a new chain begins by itself."""
    new_chain(product, lab, pitr)
    with without_cron(lab):
        for _ in range(4):
            sql(lab, "SELECT pg_switch_wal(); CREATE TABLE gone (n int)", "nocodb")
            sql(lab, "DROP TABLE gone", "nocodb")
        eventually(lambda: segments_in_spool(lab) >= 4)
        newest = lab.exec("db1", "sh", "-c", f"ls {SPOOL} | grep -E '^[0-9A-F]{{24}}$' | tail -1")
        # PostgreSQL keeps what it has not been told of.
        told = "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots"
        eventually(lambda: sql(lab, told) >= newest.stdout.decode().strip())
        [process] = receivers(lab)
        lab.exec("db1", "kill", process)
        eventually(lambda: not receivers(lab))
        # All but the oldest, which is in the bucket.
        gone = f"ls {SPOOL}/0* | tail -n +2 | xargs rm"
        assert lab.exec("db1", "sh", "-c", gone).returncode == 0
        for _ in range(2):
            sql(lab, "SELECT pg_switch_wal(); CHECKPOINT")
        said = archive(lab, code=30)
        assert "has already been removed" in said
        said = archive(lab, code=32)
        assert "segments are gone from the spool" in said
        assert "WAL is missing between segments" in said
        eventually(lambda: chain_after(lab, product, pitr), 90)


def drop_slot(lab) -> None:
    [process] = receivers(lab)
    lab.exec("db1", "kill", process)
    eventually(lambda: not receivers(lab))
    sql(lab, "SELECT pg_drop_replication_slot('swarmkeep')")


def chain_after(lab, product, hosts) -> bool:
    archive(lab)
    return chain_is_good(product, hosts)


SMALL = {"max_slot_wal_keep_size": "64MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}
ROWS = "INSERT INTO big SELECT repeat(md5(n::text), 40) FROM generate_series(1, 12000) n"


def test_slot_that_the_cap_took_leaves_production_alone(product, lab, pitr):
    new_chain(product, lab, pitr)
    sql(lab, "CREATE TABLE IF NOT EXISTS big (t text)", "nocodb")
    with without_cron(lab):
        # Each run sees that the cap is what hosts.yaml says.
        for name, value in SMALL.items():
            sql(lab, f"ALTER SYSTEM SET {name} = '{value}'")
        sql(lab, "SELECT pg_reload_conf()")
        [process] = receivers(lab)
        lab.exec("db1", "kill", process)
        eventually(lambda: not receivers(lab))
        for _ in range(60):
            sql(lab, ROWS, "nocodb")
            sql(lab, "SELECT pg_switch_wal()")
            sql(lab, "CHECKPOINT")
            if sql(lab, "SELECT wal_status FROM pg_replication_slots") == "lost":
                break
        assert sql(lab, "SELECT wal_status FROM pg_replication_slots") == "lost"
        ok, said = doctor_on_wal(product, pitr)["slot"]
        assert (ok, "is lost" in said) == (False, True)
        # What was kept for the slot is let go; some is kept for use again.
        sql(lab, "CHECKPOINT")
        assert int(sql(lab, "SELECT sum(size) FROM pg_ls_waldir()")) < 512 * 2**20
        said = archive(lab, code=32)
        assert "slot swarmkeep was lost" in said
        assert "WAL is missing between segments" in said
        eventually(lambda: chain_after(lab, product, pitr), 90)
    for name in SMALL:
        sql(lab, f"ALTER SYSTEM RESET {name}")
    sql(lab, "SELECT pg_reload_conf()")
    sql(lab, "DROP TABLE big", "nocodb")
    # Without a cap PostgreSQL would keep all of it: the next run sets it again.
    archive(lab)
    assert sql(lab, "SHOW max_slot_wal_keep_size") != "-1"


def archived(lab, bucket) -> list[str]:
    """The keys of the live cluster's WAL and base backups, oldest first.

    A cluster that was initialised by mistake, and lost again, may be there with a later identifier.
    """
    cluster = sql(lab, "SELECT system_identifier FROM pg_control_system()")
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix=f"wal/{cluster}/").get("Contents", [])
    return sorted(item["Key"] for item in found)


def segments(lab, bucket) -> list[str]:
    """The keys of all segments, oldest first."""
    return [key for key in archived(lab, bucket) if "/0000000" in key]


# What may happen to a segment: the bytes that it then has, and the name that they lie under.
BAD: dict[str, tuple[Callable[[bytes], bytes] | None, str]] = {
    "missing": (None, "is missing"),
    "truncated": (lambda body: body[: len(body) // 2], "is not what was uploaded"),
    "flipped": (
        lambda body: body[:-9] + bytes([body[-9] ^ 1]) + body[-8:],
        "is not what was uploaded",
    ),
}


def test_segment_that_is_bad_in_the_bucket(product, lab, bucket, pitr):
    """verify and restore see it, and what is before it is as good as it was."""
    new_chain(product, lab, pitr)
    reachable = now()
    archive(lab)
    behind = now()
    archive(lab)
    key = segments(lab, bucket)[-1]
    archive(lab)
    body = bucket.get_object(Bucket=lab.bucket, Key=key)["Body"].read()
    for change, said in BAD.values():
        if change is None:
            bucket.delete_object(Bucket=lab.bucket, Key=key)
        else:
            bucket.put_object(Bucket=lab.bucket, Key=key, Body=change(body))
        try:
            assert_refused_behind(product, pitr, behind, said)
        finally:
            bucket.put_object(Bucket=lab.bucket, Key=key, Body=body)
    # As another node would that believes to hold the same cluster.
    start, _, _ = key.rpartition("_")
    other = f"{start}_{hashlib.md5(body[::-1]).hexdigest()}.gz"
    bucket.put_object(Bucket=lab.bucket, Key=other, Body=body[::-1])
    try:
        assert_refused_behind(product, pitr, behind, "two servers archive as one cluster")
        product.ok("backup.restore", "--at", reachable, "--into", "still", hosts=pitr)
        # The script on the host sees it, too, whoever asks it.
        stamp = behind.translate({ord(c): None for c in "-:"}).replace(" ", "T") + "Z"
        words = ("restore", "--database", "nocodb", "--at", stamp, "--into", "no")
        ran = lab.exec("db1", "/usr/local/bin/restore-pg.sh", *words)
        assert ran.returncode == 29, ran.stderr
    finally:
        bucket.delete_object(Bucket=lab.bucket, Key=other)
    assert chain_is_good(product, pitr)


def assert_refused_behind(product, hosts, behind: str, said: str) -> None:
    """verify says it, and a time after the bad segment is refused before anything is done."""
    assert said in product.fails(4, "backup.verify", hosts=hosts).out
    refused = product.fails(4, "backup.restore", "--at", behind, "--into", "no", hosts=hosts)
    assert "you can restore to any second between" in refused.err


def test_object_that_was_changed_and_looks_right_is_seen_by_the_drill(product, lab, bucket, pitr):
    """A base backup whose SHA-256 is not the manifest's, of the right size."""
    new_chain(product, lab, pitr)
    key = [key for key in archived(lab, bucket) if key.endswith(".tar.gz")][-1]
    good = bucket.get_object(Bucket=lab.bucket, Key=key)
    body = good["Body"].read()
    middle = len(body) // 2
    bad = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    bucket.put_object(Bucket=lab.bucket, Key=key, Body=bad)
    try:
        ran = product.fails(4, "backup.drill", "--at", "now", hosts=pitr)
        assert "is damaged: its SHA-256 is" in ran.err
        assert "replayed" in product.fails(4, "backup.verify", hosts=pitr).err
    finally:
        bucket.put_object(Bucket=lab.bucket, Key=key, Body=body, Metadata=good["Metadata"])
    product.ok("backup.drill", "--at", "now", hosts=pitr)
    product.ok("backup.verify", hosts=pitr)


def test_store_that_is_away_and_comes_back(product, lab, pitr):
    new_chain(product, lab, pitr)
    away = "s,^S3_ENDPOINT_URL=.*,S3_ENDPOINT_URL=http://127.0.0.1:9,"
    once = "echo 'export AWS_MAX_ATTEMPTS=1' >>/root/away.conf"
    make = f"umask 077; sed '{away}' {CONFIG} >/root/away.conf; {once}"
    lab.exec("db1", "sh", "-c", make)
    with without_cron(lab):
        for _ in range(3):
            done = lab.exec("db1", SCRIPT, "archive", "--config", "/root/away.conf")
            assert done.returncode == 18, done.stderr
        waiting = f"ls {SPOOL} | grep -cE '^[0-9A-F]{{24}}$'"
        # The one that was uploaded last stays, and those that wait.
        assert int(lab.exec("db1", "sh", "-c", waiting).stdout) >= 4
        archive(lab)
        assert int(lab.exec("db1", "sh", "-c", waiting).stdout) == 1
    lab.exec("db1", "rm", "/root/away.conf")
    assert chain_is_good(product, pitr)


def test_spool_that_is_full_ends_the_receiver_whoever_lives(product, lab, pitr):
    """Nobody uploads: PostgreSQL's disk does not fill up, and what is there is uploaded later."""
    new_chain(product, lab, pitr)
    hosts = pitr.with_name("hosts-pitr-small.yaml")
    data = yaml.safe_load(pitr.read_text())
    data["backup"]["max_slot_wal"] = "64MiB"
    hosts.write_text(yaml.safe_dump(data))
    sql(lab, "CREATE TABLE IF NOT EXISTS big (t text)", "nocodb")
    try:
        product.ok("backup.install", hosts=hosts)
        with without_cron(lab):
            for process in receivers(lab):
                lab.exec("db1", "kill", process)
            eventually(lambda: not receivers(lab))
            archive(lab)  # or cron, in the minute before it was stopped
            assert sql(lab, "SHOW max_slot_wal_keep_size") == "64MB"
            for _ in range(6):
                sql(lab, ROWS, "nocodb")
            eventually(lambda: not receivers(lab), 30)
            assert (
                "the spool is full"
                in lab.exec("db1", "cat", f"{SPOOL}/receiver.log").stdout.decode()
            )
            assert "pg_receivewal waits" in archive(lab)
            assert chain_is_good(product, pitr)

            # What PostgreSQL has kept meanwhile may fill the spool once more.
            def catches_up() -> bool:
                archive(lab)
                return len(receivers(lab)) == 1

            eventually(catches_up)
    finally:
        hosts.unlink()
        product.ok("backup.install", hosts=pitr)
        sql(lab, "DROP TABLE big", "nocodb")


def test_tablespaces_are_refused_and_said(product, lab, pitr):
    inside = container_of(lab, "db1", DB)
    docker(
        lab,
        "db1",
        "exec",
        "-u",
        "postgres",
        inside,
        "mkdir",
        "-p",
        "/var/lib/postgresql/data/space",
    )
    sql(lab, "CREATE TABLESPACE space LOCATION '/var/lib/postgresql/data/space'")
    try:
        ran = product.fails(1, "backup.base", hosts=pitr)
        assert "tablespaces of its own" in ran.err
    finally:
        sql(lab, "DROP TABLESPACE space")
    product.ok("backup.base", hosts=pitr)


def test_base_backup_that_was_interrupted_leaves_nothing(product, lab, pitr):
    lab.exec("db1", "sh", "-c", f"setsid {SCRIPT} base >/dev/null 2>&1 &")
    partial = "ls /var/backups/postgres/.wal/base/*.partial >/dev/null 2>&1"
    eventually(lambda: lab.exec("db1", "sh", "-c", partial).returncode == 0, 30)
    lab.exec("db1", "pkill", "-TERM", "-f", f"{SCRIPT} base")
    eventually(lambda: lab.exec("db1", "pgrep", "-f", f"{SCRIPT} base").returncode != 0, 30)
    assert lab.exec("db1", "sh", "-c", partial).returncode != 0
    inside = container_of(lab, "db1", DB)
    assert "wal-pg" not in docker(lab, "db1", "exec", inside, "ls", "/dev/shm")
    assert chain_is_good(product, pitr)
    product.ok("backup.base", hosts=pitr)


def test_spool_that_is_a_link_to_another_place_is_not_followed(product, lab, pitr):
    """Whoever has the container could have files of the node uploaded, or removed."""
    file = f"/var/tmp/{'0' * 23}1"
    aside = f"touch {file}; mv {SPOOL} {SPOOL}.aside && ln -s /var/tmp {SPOOL}"
    # A run of its own that is under way would have a segment written to that place.
    with without_cron(lab):
        lab.exec("db1", "sh", "-c", aside)
        try:
            said = archive(lab, code=31)
            assert "a link to another place" in said
            assert lab.exec("db1", "test", "-e", file).returncode == 0
        finally:
            lab.exec("db1", "sh", "-c", f"rm {SPOOL} {file} && mv {SPOOL}.aside {SPOOL}")
        archive(lab)
    assert chain_is_good(product, pitr)


def test_volume_that_is_lost_under_load(product, lab, pitr):
    """Container and volume are destroyed: inv recover brings back what was archived, by the WAL."""
    new_chain(product, lab, pitr)
    product.ok("backup.run", hosts=pitr)
    sql(lab, "CREATE TABLE ledger (n int PRIMARY KEY)", "nocodb")
    with written(lab) as acknowledged:
        eventually(lambda: len(acknowledged) > 5)
        archive(lab)
        archived = len(acknowledged)
        archive(lab)
        docker(lab, "manager1", "service", "rm", DB)
        eventually(lambda: not container_of(lab, "db1", DB))
    eventually(lambda: lab.exec("db1", "docker", "volume", "rm", "dbstack_pgdata").returncode == 0)
    ran = product.ok("recover", "--yes", hosts=pitr)
    assert "recovered: nocodb, with every commit up to" in ran.out
    there = set(map(int, sql(lab, "SELECT n FROM ledger", "nocodb").split()))
    assert set(acknowledged[:archived]) <= there
    assert there == set(range(len(there))), "a hole"
    sql(lab, "DROP TABLE ledger", "nocodb")
    # The new cluster has a chain of its own.
    archive(lab)
    product.ok("backup.run", hosts=pitr)
    eventually(lambda: chain_after(lab, product, pitr), 90)
