"""A set into a throwaway PostgreSQL, as a proof: by hand, by cron, killed, and out of memory."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from lab import docker as lab_docker
from lab import images, storage
from tests.e2e.live import docker, eventually, key, outcome, sql

SCRIPT = "/usr/local/bin/restore-pg.sh"
FOLDER = "/var/backups/postgres/nocodb"

DRILLS = ("ps", "-aq", "--filter", "label=swarmkeep.drill")
# More than fits into 64 MiB, and into the indexes' share of it.
MUCH = """
CREATE TABLE much AS
  SELECT n, md5(n::text) a, repeat(md5((n * 7)::text), 6) b FROM generate_series(1, 600000) n;
CREATE INDEX ON much (a); CREATE INDEX ON much (b)
"""

pytestmark = pytest.mark.usefixtures("stamp", "tidy")


def test_good_one_is_on_record_and_leaves_nothing(product, lab, bucket, stamp):
    ran = product.ok("backup.drill", "--key", stamp)
    assert f"drilled: set {stamp} of nocodb" in ran.out
    assert "as recorded" in ran.out
    found = outcome(lab, bucket, stamp)
    assert (found["outcome"], found["set"], found["app"], found["node"]) == (
        "ok",
        stamp,
        False,
        "db1",
    )
    last = bucket.get_object(Bucket=lab.bucket, Key="postgres/nocodb/drill.json")
    assert json.loads(last["Body"].read()) == found
    assert "drilled" in product.ok("backup.list").out
    nothing_is_left(lab)


def test_one_that_runs_out_of_memory_says_nothing_of_the_set(product, lab, bucket, variant):
    sql(lab, MUCH, "nocodb")
    big = ""
    try:
        product.ok("backup.run")
        big = newest(product)["set"]
        # In a lab in memory its files count, too: it does not even start with so little.
        limits = ("64MiB", "256MiB") if storage.folder(lab.name).exists() else ("64MiB",)
        for limit in limits:
            hosts = variant({"backup": {"drill_memory": limit}})
            product.ok("backup.install", hosts=hosts)
            ran = product.fails(1, "backup.drill", hosts=hosts)
            assert "PostgreSQL ran out of memory (" in ran.err
            assert ("does not begin to answer" in ran.err) == (limit != limits[-1])
            assert "backup.drill_memory" in ran.err
            assert "drill" not in newest(product)["proofs"]
            nothing_is_left(lab)
        hosts = variant({"backup": {"drill_memory": "2GiB"}})
        product.ok("backup.install", hosts=hosts)
        assert "as recorded" in product.ok("backup.drill", hosts=hosts).out
    finally:
        sql(lab, "DROP TABLE much", "nocodb")
        # A recovery would take the sets after it, which are so much smaller, for damaged ones.
        forget(lab, bucket, big)
        product.ok("backup.install")


def newest(product) -> dict[str, Any]:
    return dict(json.loads(product.ok("backup.list", "--json").out)["backups"][0])


def forget(lab, bucket, stamp: str) -> None:
    """Remove a set from the bucket and from the db node."""
    assert stamp
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix=key(stamp, ""))["Contents"]
    for item in found:
        bucket.delete_object(Bucket=lab.bucket, Key=item["Key"])
    lab.exec("db1", "sh", "-c", f"rm {FOLDER}/backup_{stamp}.*")


def test_with_the_app(product, lab, bucket, stamp):
    # Another file may have needed it there.
    lab.exec("db1", "docker", "image", "rm", "--force", images.NOCODB.tag)
    refused = product.fails(1, "backup.drill", "--key", stamp, "--app")
    assert "is not on this node and cannot be pulled" in refused.err
    node = lab.container("db1")
    tag = images.NOCODB.tag
    lab_docker.pipe(("save", tag), ("exec", "--interactive", node, "docker", "load"))
    try:
        ran = product.ok("backup.drill", "--key", stamp, "--app")
    finally:
        docker(lab, "db1", "image", "rm", tag)
    assert "NocoDB answered" in ran.out
    assert outcome(lab, bucket, stamp)["app"] is True
    nothing_is_left(lab)


def test_killed_hard_leaves_what_the_next_one_removes(product, lab, stamp):
    command = ["docker", "exec", lab.container("db1"), SCRIPT, "drill"]
    drill = subprocess.Popen([*command, "--database", "nocodb", "--set", stamp])
    eventually(lambda: bool(docker(lab, "db1", *DRILLS)))
    lab.exec("db1", "pkill", "-9", "-f", f"{SCRIPT} drill")
    drill.wait(20)
    assert docker(lab, "db1", *DRILLS)
    product.ok("backup.drill", "--key", stamp)
    nothing_is_left(lab)


def test_scheduled(product, lab, variant):
    hosts = variant({"backup": {"drill_schedule": "* * * * *"}})
    product.ok("backup.install", hosts=hosts)
    try:
        log = "/var/log/backup-pg.log"
        eventually(lambda: b"drill complete" in lab.exec("db1", "cat", log).stdout, 180)
    finally:
        product.ok("backup.install")
    entry = lab.exec("db1", "cat", "/etc/cron.d/backup-pg").stdout.decode()
    assert "drill" not in entry.replace("drills", "")
    eventually(lambda: lab.exec("db1", "pgrep", "-f", f"{SCRIPT} drill").returncode != 0)


def nothing_is_left(lab) -> None:
    assert docker(lab, "db1", *DRILLS) == ""
    assert docker(lab, "db1", "volume", "ls", "-q") == "dbstack_pgdata"
    left = lab.exec("db1", "sh", "-c", f"ls {FOLDER}/*.partial").returncode
    assert left != 0
