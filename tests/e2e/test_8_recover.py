"""The database's data is gone, or both stacks are, or the whole Swarm: one command brings all back.

Real data, in several bases and with an attachment, is put in and read through NocoDB's own API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fabfile.base.errors import SwarmkeepError
from lab import demo
from lab.model import NODES
from tests.e2e.conftest import empty
from tests.e2e.live import (
    APP,
    DB,
    cluster_state,
    container_of,
    databases,
    docker,
    eventually,
    named,
    nocodb_shows,
    sql,
)

# The set that every recovery here brings back is that of `stamp`.
pytestmark = pytest.mark.usefixtures("stamp", "tidy")

DB_VOLUME, APP_VOLUME = "dbstack_pgdata", "appstack_data"
OTHER_BASE, OTHER_TABLE = "Archive", "Papers"
OTHER_COLUMNS = [{"title": "Title", "column_name": "title", "uidt": "SingleLineText"}]
OTHER_ROWS = [{"Title": "Über alles Mögliche"}, {"Title": "x'; DROP TABLE y; --"}]


@pytest.fixture(scope="module")
def rows(deployed, lab):
    """In two bases."""
    demo.fill(lab)
    server = demo.login(lab)
    table = server.table(server.base(OTHER_BASE), OTHER_TABLE, OTHER_COLUMNS)
    if not server.records(table):
        server.insert(table, [dict(row) for row in OTHER_ROWS])
    return demo.records(lab)


def other_rows(lab) -> list[dict[str, Any]]:
    server = demo.login(lab)
    return server.records(server.table(server.base(OTHER_BASE), OTHER_TABLE, OTHER_COLUMNS))


def all_is_back(product, lab, rows) -> None:
    """Every row of both bases and the attachment, through NocoDB; nothing left to deploy."""
    eventually(lambda: nocodb_shows(lab, rows), 60)
    assert [row["Title"] for row in other_rows(lab)] == [row["Title"] for row in OTHER_ROWS]
    assert demo.manual(lab) == demo.MANUAL
    assert "nothing to do" in product.ok("plan").out
    assert lab.exec("db1", "test", "-x", "/usr/local/bin/backup-pg.sh").returncode == 0


def gone(lab, node: str, service: str) -> bool:
    label = f"label=com.docker.swarm.service.name={service}"
    return docker(lab, node, "ps", "-aq", "--filter", label) == ""


def remove_stacks(lab) -> None:
    docker(lab, "manager1", "stack", "rm", "appstack", "dbstack")
    remove_volumes(lab)


def remove_volumes(lab) -> None:
    eventually(lambda: gone(lab, "db1", DB) and gone(lab, "app1", APP))
    docker(lab, "db1", "volume", "rm", DB_VOLUME)
    docker(lab, "app1", "volume", "rm", APP_VOLUME)


def test_a_database_with_data_is_left_alone(product, lab):
    before = cluster_state(lab)
    ran = product.fails(1, "recover", "--yes")
    assert "there is nothing to recover, and nothing was changed" in ran.err
    assert "inv backup.restore --replace" in ran.err
    assert cluster_state(lab) == before


def test_nobody_to_ask_or_no_set_to_trust(product, lab, variant, rows):
    before = cluster_state(lab)
    huge = variant({"backup": {"min_size": "1GB"}})
    ran = product.fails(4, "recover", "--yes", hosts=huge)
    assert "has no set that passes the checks" in ran.err
    assert "less than the" in ran.err
    ran = product.fails(4, "recover", "--yes", "--before", "9d")
    assert "has no backup made before" in ran.err
    product.fails(2, "recover", "--before", "9d", "--key", "20200101T000000Z")
    older = variant({"images": {"postgres": "swarmkeep-lab/postgres:14-bookworm"}})
    ran = product.fails(2, "recover", "--yes", hosts=older)
    assert "is of PostgreSQL 15, images.postgres in hosts.yaml is 14" in ran.err
    assert cluster_state(lab) == before


def test_volume_of_the_database_and_the_attachments_are_destroyed(
    product, lab, bucket, rows, stamp
):
    docker(lab, "manager1", "service", "scale", "--detach", f"{DB}=0")
    eventually(lambda: container_of(lab, "db1", DB) == "")
    left = docker(
        lab, "db1", "ps", "-aq", "--filter", f"label=com.docker.swarm.service.name={DB}"
    ).split()
    if left:
        docker(lab, "db1", "rm", "-f", "-v", *left)
    docker(lab, "db1", "volume", "rm", DB_VOLUME)
    mount = docker(lab, "app1", "volume", "inspect", "-f", "{{.Mountpoint}}", APP_VOLUME)
    assert lab.exec("app1", "sh", "-c", f"find {mount} -name 'lathe*' -delete").returncode == 0
    docker(lab, "manager1", "service", "scale", "--detach", f"{DB}=1")
    # It comes up by itself, and empty: NocoDB stays on it, or begins anew.
    eventually(lambda: _answers(lab))
    # Newer than the good set, and not to be trusted: cut off after its manifest was written.
    body = bucket.get_object(
        Bucket=lab.bucket, Key=f"postgres/nocodb/backup_{stamp}.manifest.json"
    )["Body"].read()
    late = _later(stamp)
    torn = f"postgres/nocodb/backup_{late}.manifest.json"
    bucket.put_object(Bucket=lab.bucket, Key=torn, Body=body)
    try:
        ran = product.fails(2, "recover")
        assert "there is no terminal to ask on" in ran.err
        ran = product.ok("recover", "--yes", timeout=600)
    finally:
        bucket.delete_object(Bucket=lab.bucket, Key=torn)
    assert f"set {late} of nocodb is skipped" in ran.out
    assert f"set {stamp} of nocodb, made" in ran.out
    assert "recovered: nocodb, as it was at" in ran.out
    assert "as recorded" in ran.out
    assert "recovery complete (" in ran.out
    kept = named(lab, "nocodb_replaced_")
    assert len(kept) == 1
    assert f"the database that its app made meanwhile is kept as {kept[0]}" in ran.out
    all_is_back(product, lab, rows)
    log = json.loads(product.ok("audit", "--json").out)
    assert f"recover {stamp}" in [entry["command"] for entry in log[-4:]]


def _answers(lab) -> bool:
    try:
        return container_of(lab, "db1", DB) != "" and "nocodb" in databases(lab)
    except AssertionError:
        return False


def _later(stamp: str) -> str:
    """One second after, within the clocks' tolerance."""
    from fabfile.backup.object_keys import second_of
    from fabfile.backup.object_keys import stamp as text

    second = second_of(stamp)
    assert second is not None
    return text(second + 1)


def test_nights_after_a_loss_in_which_cron_backed_up_what_had_begun_anew(product, lab, rows, stamp):
    remove_stacks(lab)
    # Nobody has noticed: the empty database is made, NocoDB begins anew, and both are backed up.
    product.ok("deploy", "--yes", "--leave-data")
    product.ok("backup.run")
    anew = json.loads(product.ok("backup.list", "--json").out)["backups"][0]["set"]
    assert anew > stamp
    ran = product.ok("recover", "--yes", timeout=600)
    assert f"set {anew} of nocodb is skipped: " in ran.out
    assert "nobody has signed up in it, set " in ran.out
    assert "recovered: nocodb, as it was at" in ran.out
    assert len(named(lab, "nocodb_replaced_")) == 1
    all_is_back(product, lab, rows)


LEDGER = "SELECT count(*), sum(n) FROM entries"


@pytest.fixture
def two_databases(product, lab, bucket, variant) -> Iterator[Path]:
    """A hosts file that names a second database, which is there and backed up."""
    hosts = variant({"pg_db": ["nocodb", "ledger"]})
    sql(lab, "CREATE DATABASE ledger")
    rows = "SELECT n, md5(n::text) FROM generate_series(1, 500) n"
    sql(lab, f"CREATE TABLE entries AS {rows}", "ledger")
    product.ok("backup.install", hosts=hosts)
    product.ok("backup.run", hosts=hosts)
    yield hosts
    product.ok("backup.install")
    empty(bucket, lab, "postgres/ledger/")


@pytest.mark.timeout(600)
def test_two_databases_and_one_of_them_again_after_it_was_cut_off(
    product, lab, rows, two_databases
):
    entries = sql(lab, LEDGER, "ledger")
    remove_stacks(lab)
    # A new host: PostgreSQL makes NocoDB's database only, and nothing is installed there.
    gone = "rm -rf /usr/local/bin/*-pg.sh /etc/backup-pg.* /var/lib/backup-pg.checked"
    assert lab.exec("db1", "sh", "-c", gone).returncode == 0
    ran = product.ok("recover", "--yes", hosts=two_databases, timeout=600)
    assert "recovered: nocodb, as it was at" in ran.out
    assert "recovered: ledger, as it was at" in ran.out
    assert databases(lab) == {"nocodb", "ledger"}
    assert sql(lab, LEDGER, "ledger") == entries
    all_is_back(product, lab, rows)

    # As if it had been cut off between the two.
    sql(lab, "DROP DATABASE ledger WITH (FORCE)")
    ran = product.ok("recover", "--yes", hosts=two_databases, timeout=600)
    assert "nocodb is there, with " in ran.out
    assert "recovered: nocodb" not in ran.out
    assert "recovered: ledger, as it was at" in ran.out
    assert databases(lab) == {"nocodb", "ledger"}
    assert sql(lab, LEDGER, "ledger") == entries
    all_is_back(product, lab, rows)
    ran = product.fails(1, "recover", "--yes", hosts=two_databases)
    assert "there is nothing to recover, and nothing was changed" in ran.err


@contextmanager
def cut_off(product, lab) -> Iterator[None]:
    """The manager and the db node cannot see each other for the length of the block."""
    manager = lab.addresses["manager1"]
    rules = [("INPUT", "-s", manager), ("OUTPUT", "-d", manager)]
    ask = ("node", "inspect", "--format", "{{.Status.State}}", "db1")
    for rule in rules:
        assert lab.exec("db1", "iptables", "-I", *rule, "-j", "DROP").returncode == 0
    try:
        eventually(lambda: docker(lab, "manager1", *ask) == "down", 90)
        yield
    finally:
        for rule in rules:
            lab.exec("db1", "iptables", "-D", *rule, "-j", "DROP")
        eventually(lambda: docker(lab, "manager1", *ask) == "ready", 90)
        eventually(lambda: product.inv("deploy").code == 0, 120)


@pytest.mark.timeout(600)
def test_a_db_node_that_is_down_is_named_with_what_to_do(product, lab, rows):
    with cut_off(product, lab):
        before = {k: v for k, v in cluster_state(lab).items() if k != "tasks"}
        ran = product.fails(1, "recover", "--yes")
        assert "dbstack: is to run on db1, whose node db1 is down; nothing was changed" in ran.err
        assert "docker node rm --force db1" in ran.err
        assert {k: v for k, v in cluster_state(lab).items() if k != "tasks"} == before
    eventually(lambda: nocodb_shows(lab, rows))


def test_both_stacks_and_all_their_data_are_gone(product, lab, rows):
    remove_stacks(lab)
    ran = product.fails(1, "backup.get-files")
    assert "appstack: no app host has the volume appstack_data" in ran.err
    ran = product.ok("recover", "--yes", timeout=600)
    assert "dbstack_root_db: created" in ran.out
    assert "appstack_nocodb: created" in ran.out
    assert "files restored stack=appstack fetched=" in ran.out
    assert databases(lab) == {"nocodb"}
    all_is_back(product, lab, rows)


def test_volume_without_its_service_is_no_proof_of_loss(product, lab, rows):
    docker(lab, "manager1", "stack", "rm", "dbstack")
    eventually(lambda: gone(lab, "db1", DB))
    ran = product.fails(1, "recover", "--yes")
    assert "its volume is on db1, but PostgreSQL does not run there" in ran.err
    product.ok("deploy-db", "--yes")
    eventually(lambda: nocodb_shows(lab, rows))


def test_a_brand_new_swarm_with_nothing_on_it(product, lab, rows):
    remove_stacks(lab)
    for node in reversed(NODES):
        left = lab.exec(node, "docker", "swarm", "leave", "--force")
        assert left.returncode == 0, left.stderr
    files = (
        "rm -rf /usr/local/bin/*-pg.sh /usr/local/bin/backup-files.sh /usr/local/lib/*.sh "
        "/etc/backup-* /etc/cron.d/backup-* /var/lib/backup-* /var/backups/postgres"
    )
    for node in ("db1", "app1"):
        assert lab.exec(node, "sh", "-c", files).returncode == 0
    with pytest.raises((SwarmkeepError, OSError)):
        demo.records(lab)
    assert "inv swarm.init" in product.fails(1, "recover", "--yes").err
    product.ok("swarm.init")
    ran = product.ok("recover", "--yes", timeout=600)
    assert "recovery complete (" in ran.out
    all_is_back(product, lab, rows)
    assert "recovery complete" not in product.fails(1, "recover", "--yes").out
    product.ok("backup.run")
    product.ok("backup.verify")


def test_attachments_by_themselves(product, lab, rows):
    mount = docker(lab, "app1", "volume", "inspect", "-f", "{{.Mountpoint}}", APP_VOLUME)
    listed = f"cd {mount} && find . -type f -printf '%P %s %U %m\\n' | sort"
    before = lab.exec("app1", "sh", "-c", listed).stdout
    assert b"lathe" in before
    lab.exec("app1", "sh", "-c", f"find {mount} -name '*lathe*' -delete")
    assert lab.exec("app1", "sh", "-c", listed).stdout != before
    ran = product.ok("backup.get-files")
    assert "app1: files restored stack=appstack fetched=1" in ran.out
    assert lab.exec("app1", "sh", "-c", listed).stdout == before
    assert demo.manual(lab) == demo.MANUAL
    # One that has changed since the backup is not taken back.
    lab.exec(
        "app1", "sh", "-c", f"find {mount} -name '*lathe*' -exec sh -c 'echo more >>$0' {{}} \\;"
    )
    changed = lab.exec("app1", "sh", "-c", listed).stdout
    ran = product.ok("backup.get-files")
    assert "files are not as they are in the bucket and were left alone" in ran.out
    assert lab.exec("app1", "sh", "-c", listed).stdout == changed
    lab.exec("app1", "sh", "-c", f"find {mount} -name '*lathe*' -delete")
    product.ok("backup.restore", "--into", "beside", "--files")
    assert demo.manual(lab) == demo.MANUAL
