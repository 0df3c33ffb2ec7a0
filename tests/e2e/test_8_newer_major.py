"""PostgreSQL 17 on the db node: a set of 15 comes back into it, and it is archived itself, with
incremental base backups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lab import demo
from tests.e2e.live import docker, eventually, sql
from tests.e2e.test_8_pitr import SCRIPT

NAME, SERVICE, CONFIG, FOLDER = "newer", "newer_root_db", "/root/newer.conf", "/var/backups/newer"
RESTORE = "/usr/local/bin/restore-pg.sh"
ENVIRONMENT = {
    "PGDATA": "/var/lib/postgresql/data/pgdata",
    "POSTGRES_USER": "nocodb",
    "POSTGRES_DB": "nocodb",
    "POSTGRES_PASSWORD": "only-here",
}
SETTINGS = {
    "DB_SERVICE_NAME": SERVICE,
    "BACKUP_DIR": FOLDER,
    "PITR": "yes",
    # All databases together are larger than this.
    "INCREMENTAL_FROM": "1048576",
}


@pytest.fixture(scope="module")
def newer(deployed, product, lab, postgres_17) -> Iterator[str]:
    """A container of PostgreSQL 17 on the db node, which looks like a service's."""
    docker(
        lab, "db1", "run", "--detach", "--name", NAME,
        "--label", f"com.docker.swarm.service.name={SERVICE}",
        "--volume", "newer_pgdata:/var/lib/postgresql/data",
        *(word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")),
        # What autovacuum changes, and when, must not decide how large base backups are.
        postgres_17, "postgres", "-c", "autovacuum=off",
    )  # fmt: skip
    try:
        # Over TCP: during its first start it listens on its socket only.
        ready = ("exec", NAME, "pg_isready", "-qh", "127.0.0.1", "-U", "nocodb")
        eventually(lambda: lab.exec("db1", "docker", *ready).returncode == 0, 60)
        product.ok("backup.install")
        settings = "".join(f"{name}={value}\\n" for name, value in SETTINGS.items())
        script = f"umask 077; {{ cat /etc/backup-pg.conf; printf '{settings}'; }} >{CONFIG}"
        assert lab.exec("db1", "sh", "-c", script).returncode == 0
        yield NAME
    finally:
        docker(lab, "db1", "rm", "--force", "--volumes", NAME)
        docker(lab, "db1", "volume", "rm", "newer_pgdata")
        lab.exec("db1", "rm", "-rf", CONFIG, FOLDER)


def ask(lab, text: str, database: str = "nocodb") -> str:
    return docker(
        lab, "db1", "exec", NAME, "psql", "-XAtq", "-U", "nocodb", "-d", database, "-c", text
    )


def run(lab, *words: str, code: int = 0) -> str:
    """Run a script with the settings for the newer server; what it logged."""
    done = lab.exec("db1", *words, "--config", CONFIG)
    said = str(done.stderr.decode())
    assert done.returncode == code, said
    return said


def test_every_row_of_15_comes_back_in_17(product, lab, newer):
    demo.fill(lab)
    assert lab.exec("db1", "/usr/local/bin/backup-pg.sh").returncode == 0
    assert "restore complete" in run(lab, RESTORE, "restore", "--latest", "--into", "from_15")
    assert ask(lab, "SHOW server_version").startswith("17.")
    assert sql(lab, "SHOW server_version").startswith("15.")
    users = "SELECT count(*) FROM nc_users_v2"
    assert ask(lab, users, "from_15") == sql(lab, users, "nocodb") == "1"
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    assert ask(lab, tables, "from_15") == sql(lab, tables, "nocodb")


def parent_of(said: str) -> str:
    """From the log of a base backup, the one that it adds to; "" for a full one."""
    [line] = [line for line in said.splitlines() if "base backup complete" in line]
    return line.partition("parent=")[2]


def key_of(said: str) -> str:
    """From the log of a base backup, the key of its manifest."""
    [line] = [line for line in said.splitlines() if "base backup complete" in line]
    return line.partition("key=")[2].split()[0]


@pytest.fixture(scope="module")
def base_backups(newer, lab) -> list[str]:
    """A full base backup, two incremental ones, each after more rows, and WAL; their keys."""
    # PostgreSQL notes which blocks change from the first one on.
    run(lab, SCRIPT, "archive")
    eventually(lambda: lab.exec("db1", "test", "-f", f"{FOLDER}/.wal/newest-base").returncode == 0)
    assert ask(lab, "SHOW summarize_wal") == "on"
    ask(lab, "CREATE TABLE work AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n")
    first = run(lab, SCRIPT, "base")
    ask(lab, "UPDATE work SET n = -n WHERE n <= 100")
    second = run(lab, SCRIPT, "base")
    assert f"base_{parent_of(second)}.json" in key_of(first)
    ask(lab, "INSERT INTO work SELECT n, 'more' FROM generate_series(50001, 50100) n")
    third = run(lab, SCRIPT, "base")
    assert f"base_{parent_of(third)}.json" in key_of(second)
    ask(lab, "DELETE FROM work WHERE n = 50000")
    run(lab, SCRIPT, "archive")
    return [key_of(said) for said in (first, second, third)]


def test_incremental_base_backups_are_combined(base_backups, lab, bucket):
    sizes = [
        json.loads(bucket.get_object(Bucket=lab.bucket, Key=key)["Body"].read())["bytes"]
        for key in base_backups
    ]
    assert sizes[2] < sizes[0] / 2
    run(lab, RESTORE, "restore", "--at", "end", "--into", "combined")
    sums = "SELECT count(*), sum(n), count(*) FILTER (WHERE n < 0) FROM work"
    assert ask(lab, sums, "combined") == ask(lab, sums) == "50099|1254969950|100"


def test_the_chain_of_another_major_is_refused_by_name(base_backups, lab):
    """As after a change of the major version: for older times there are sets."""
    cluster = base_backups[0].split("/")[-2]
    words = ("restore", "--database", "nocodb", "--at", "end", "--into", "no")
    done = lab.exec("db1", RESTORE, *words, "--cluster", cluster)
    assert done.returncode == 23, done.stderr
    assert b"the base backup is of PostgreSQL 17, this server is 15" in done.stderr
    assert b"use a set" in done.stderr
    assert sql(lab, "SELECT count(*) FROM pg_database WHERE datname = 'no'") == "0"


def test_one_that_is_not_in_the_bucket_makes_those_after_it_useless(base_backups, lab, bucket):
    tar = base_backups[1].replace(".json", ".tar.gz")
    bucket.delete_object(Bucket=lab.bucket, Key=tar)
    # What there is before it leads on, by the WAL alone.
    said = run(lab, RESTORE, "restore", "--at", "end", "--into", "without")
    assert f"base backup {tar} is not complete in the bucket" in said
    assert ask(lab, "SELECT count(*) FROM work", "without") == "50099"
    said = run(lab, SCRIPT, "base")
    assert "is not in the bucket as it was uploaded: a full one is made" in said
    assert parent_of(said) == ""


def test_summaries_that_are_gone_mean_a_full_one(base_backups, lab):
    ask(lab, "ALTER SYSTEM SET summarize_wal = off")
    ask(lab, "SELECT pg_reload_conf()")
    docker(lab, "db1", "exec", NAME, "sh", "-c", "rm -f $PGDATA/pg_wal/summaries/*")
    # The WAL that they could be made from again goes, too.
    for _ in range(2):
        ask(lab, "INSERT INTO work VALUES (0, 'again')")
        run(lab, SCRIPT, "archive")
        ask(lab, "CHECKPOINT")
    ask(lab, "ALTER SYSTEM SET summarize_wal = on")
    ask(lab, "SELECT pg_reload_conf()")
    said = run(lab, SCRIPT, "base")
    assert "an incremental base backup failed, a full one is made" in said
    assert parent_of(said) == ""


def test_what_it_set_is_reset_when_it_is_switched_off(base_backups, lab):
    run(lab, SCRIPT, "stop")
    assert ask(lab, "SHOW summarize_wal") == "off"
    assert ask(lab, "SELECT count(*) FROM pg_replication_slots") == "0"
