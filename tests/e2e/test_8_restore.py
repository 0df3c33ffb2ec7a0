"""The way back: restore, replace, undo, drill; and what becomes of each when something dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab import demo, images, s3
from lab import docker as lab_docker
from tests.e2e.conftest import ROOT, container_of, docker
from tests.e2e.live import APP, DB, databases, eventually, named, nocodb_shows, sql

SCRIPT = "/usr/local/bin/restore-pg.sh"
FOLDER = "/var/backups/postgres/nocodb"


@pytest.fixture(scope="module")
def bucket(lab):
    return s3.client(lab, lab.secrets[s3.OPERATOR])


@pytest.fixture(scope="module")
def rows(deployed, lab):
    """Real data, put in through NocoDB's own API."""
    demo.fill(lab)
    return demo.records(lab)


@pytest.fixture(scope="module", autouse=True)
def stamp(rows, product, lab) -> str:
    """The time stamp of a backup of it; all that follows is about this one."""
    product.ok("backup.install")
    assert lab.exec("db1", "/usr/local/bin/backup-pg.sh").returncode == 0
    return json.loads(product.ok("backup.list", "--json").out)["backups"][0]["set"]


@pytest.fixture(autouse=True)
def tidy(lab) -> Iterator[None]:
    """Every test leaves the live database and what was there before."""
    yield
    for name in databases(lab) - {"nocodb"}:
        sql(lab, f'DROP DATABASE "{name}" WITH (FORCE)')


def replicas(lab) -> str:
    form = "{{.Spec.Mode.Replicated.Replicas}} {{json .Spec.Labels}}"
    return docker(lab, "manager1", "service", "inspect", "--format", form, APP)


@contextmanager
def altered(lab, bucket, key: str, change: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """An object changed (None: removed) for the length of the block, in the bucket alone."""
    good = bucket.get_object(Bucket=lab.bucket, Key=key)
    body = good["Body"].read()
    bad = change(body)
    lab.exec("db1", "sh", "-c", f"mkdir -p /root/aside && mv {FOLDER}/backup_* /root/aside/")
    if bad is None:
        bucket.delete_object(Bucket=lab.bucket, Key=key)
    else:
        bucket.put_object(Bucket=lab.bucket, Key=key, Body=bad, Metadata=good["Metadata"])
    try:
        yield
    finally:
        bucket.put_object(Bucket=lab.bucket, Key=key, Body=body, Metadata=good["Metadata"])
        lab.exec("db1", "sh", "-c", f"mv /root/aside/backup_* {FOLDER}/")


def key(stamp: str, part: str) -> str:
    return f"postgres/nocodb/backup_{stamp}.{part}"


def manifest(**changes) -> Callable[[bytes], bytes]:
    """A change of a manifest's fields."""
    return lambda body: json.dumps(json.loads(body) | changes).encode()


def outcome(lab, bucket, stamp: str) -> dict:
    body = bucket.get_object(Bucket=lab.bucket, Key=key(stamp, "drill.json"))["Body"].read()
    return dict(json.loads(body))


CHANGED = """
REVOKE ALL ON DATABASE nocodb FROM PUBLIC; GRANT CONNECT ON DATABASE nocodb TO reader;
ALTER DATABASE nocodb CONNECTION LIMIT 90; ALTER DATABASE nocodb SET work_mem TO '5MB';
ALTER DATABASE nocodb SET search_path TO "Odd, name", public;
ALTER ROLE reader IN DATABASE nocodb SET statement_timeout TO '3s'
"""
UNCHANGED = """
ALTER DATABASE nocodb RESET ALL; ALTER DATABASE nocodb CONNECTION LIMIT -1;
REVOKE ALL ON DATABASE nocodb FROM reader; GRANT CONNECT, TEMPORARY ON DATABASE nocodb TO PUBLIC
"""
RIGHTS = """
SELECT datconnlimit, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(datacl) a)
FROM pg_database WHERE datname = '{}'
"""
SETTINGS = """
SELECT string_agg(setrole::regrole::text || setconfig::text, ' ' ORDER BY setrole::regrole::text)
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = '{}'
"""


class TestInto:
    def test_new_database_has_every_row(self, product, lab, stamp):
        ran = product.ok("backup.restore")
        name = f"nocodb_{stamp.lower()}"
        assert f"restored: nocodb, into {name}" in ran.out
        assert "as recorded" in ran.out
        assert name in databases(lab)
        count = 'SELECT count(*) FROM "nc_users_v2"'
        assert sql(lab, count, name) == sql(lab, count, "nocodb") == "1"
        ran = product.fails(1, "backup.restore")
        assert f"database {name} exists already and is not empty; nothing was changed" in ran.err

    def test_from_the_bucket_alone_with_roles_that_are_missing(self, product, lab, stamp):
        sql(lab, "CREATE ROLE reader LOGIN PASSWORD 'x'; CREATE ROLE \"Odd name\"; ")
        sql(lab, 'CREATE ROLE keeper; GRANT "Odd name" TO keeper')
        sql(lab, "ALTER ROLE keeper SET a.b TO E'x\\nCREATE ROLE evil SUPERUSER;\\n'")
        sql(lab, 'GRANT "Odd name" TO reader; CREATE TABLE seen (n int)', "nocodb")
        sql(lab, "ALTER TABLE seen OWNER TO reader; INSERT INTO seen VALUES (1), (2)", "nocodb")
        assert lab.exec("db1", "/usr/local/bin/backup-pg.sh").returncode == 0
        verifier = sql(lab, "SELECT rolpassword FROM pg_authid WHERE rolname = 'reader'")
        sql(lab, 'DROP TABLE seen; DROP ROLE reader; DROP ROLE "Odd name"', "nocodb")
        lab.exec("db1", "sh", "-c", f"rm {FOLDER}/backup_*")
        ran = product.ok("backup.restore", "--into", "fresh", "--jobs", "3")
        assert 'made roles that were missing: "Odd name" reader' in ran.out
        assert verifier not in ran.text
        assert sql(lab, "SELECT count(*) FROM seen", "fresh") == "2"
        asked = "SELECT rolpassword FROM pg_authid WHERE rolname = 'reader'"
        assert sql(lab, asked) == verifier
        for member in ("reader", "keeper"):
            assert sql(lab, f"SELECT pg_has_role('{member}', 'Odd name', 'MEMBER')") == "t"
        owner = "SELECT relowner::regrole FROM pg_class WHERE relname = 'seen'"
        assert sql(lab, owner, "fresh") == "reader"
        sql(lab, "DROP DATABASE fresh WITH (FORCE)")
        sql(lab, 'DROP ROLE reader; DROP ROLE keeper; DROP ROLE "Odd name"')

    def test_rights_and_settings_of_the_database_come_back(self, product, lab):
        sql(lab, "CREATE ROLE reader LOGIN")
        sql(lab, CHANGED)
        try:
            assert lab.exec("db1", "/usr/local/bin/backup-pg.sh").returncode == 0
            recorded = [sql(lab, asked.format("nocodb")) for asked in (RIGHTS, SETTINGS)]
        finally:
            sql(lab, UNCHANGED)
            sql(lab, "DROP ROLE reader")
        product.ok("backup.restore", "--into", "fresh")
        assert [sql(lab, asked.format("fresh")) for asked in (RIGHTS, SETTINGS)] == recorded
        assert "reader=c" in recorded[0]
        assert "reader{statement_timeout=3s}" in recorded[1]
        assert "work_mem=5MB" in recorded[1]
        sql(lab, "DROP DATABASE fresh WITH (FORCE)")
        sql(lab, "DROP ROLE reader")

    def test_which_one_is_meant(self, product, lab, stamp):
        ran = product.ok("backup.restore", "--key", stamp, "--into", "by_stamp")
        assert f"set {stamp} of nocodb" in ran.out
        part = f"s3://{lab.bucket}/{key(stamp, 'dump.gz')}"
        assert f"set {stamp}" in product.ok("backup.restore", "--key", part, "--into", "by_key").out
        assert (
            "has no backup made before" in product.fails(4, "backup.restore", "--before", "9d").err
        )
        assert "is no backup of" in product.fails(2, "backup.restore", "--key", "yesterday").err
        product.fails(4, "backup.restore", "--key", "20200101T000000Z")
        product.fails(2, "backup.restore", "--into", "postgres")


class TestRefused:
    """Each by the right rung, and before anything is changed."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, lab) -> Iterator[None]:
        before = databases(lab)
        yield
        assert databases(lab) == before

    def test_flipped_byte(self, product, lab, bucket, stamp):
        def flip(body: bytes) -> bytes:
            return body[:-100] + bytes([body[-100] ^ 1]) + body[-99:]

        with altered(lab, bucket, key(stamp, "dump.gz"), flip):
            ran = product.fails(4, "backup.restore", "--key", stamp)
            assert "is damaged: its SHA-256 is" in ran.err
            product.fails(4, "backup.drill", "--key", stamp)
        assert outcome(lab, bucket, stamp)["outcome"] == "failed"
        assert "SHA-256" in outcome(lab, bucket, stamp)["reason"]

    def test_missing_part(self, product, lab, bucket, stamp):
        with altered(lab, bucket, key(stamp, "globals.sql.gz"), lambda _: None):
            ran = product.fails(4, "backup.restore", "--key", stamp)
            assert f"{key(stamp, 'globals.sql.gz')} is missing" in ran.err
            # The script alone sees it too.
            done = lab.exec("db1", SCRIPT, "drill", "--database", "nocodb", "--set", stamp)
            assert done.returncode == 21, done.stderr
        assert "has no bytes in the bucket" in outcome(lab, bucket, stamp)["reason"]

    def test_wrong_count(self, product, lab, bucket, stamp):
        good = json.loads(
            bucket.get_object(Bucket=lab.bucket, Key=key(stamp, "manifest.json"))["Body"].read()
        )
        rows = good["rows"] | {"public.nc_users_v2": 7}
        with altered(lab, bucket, key(stamp, "manifest.json"), manifest(rows=rows)):
            ran = product.fails(4, "backup.restore", "--key", stamp)
            assert '"public.nc_users_v2" expected 7, got 1' in ran.err
            product.fails(4, "backup.drill", "--key", stamp)
            assert "failed drill" in product.ok("backup.list").out
        assert "nc_users_v2" in outcome(lab, bucket, stamp)["reason"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"server_version_num": 990000}, "no older one can read it"),
            ({"size": 10**15}, "bytes free, the restore needs about"),
            ({"extensions": {"plpgsql": "1.0", "postgis": "3"}}, "lacks: postgis"),
        ],
    )
    def test_server_that_cannot(self, product, lab, bucket, stamp, changes, words):
        with altered(lab, bucket, key(stamp, "manifest.json"), manifest(**changes)):
            assert words in product.fails(1, "backup.restore", "--key", stamp).err


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
        assert "nobody is here to be asked" in product.fails(2, "backup.restore", "--replace").err
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
    client = subprocess.Popen(
        [sys.executable, "-m", "invoke", "backup.restore", "--key", stamp, "--replace", "--yes"],
        cwd=ROOT,
        env=lab.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert client.stdout
    seen = ""
    for line in client.stdout:
        seen += line
        if step in line:
            return client
    raise AssertionError(f"ended before {step!r}:\n{seen}")


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
        out, _ = client.communicate(timeout=300)
        hunter.wait(20)
        assert client.returncode == 1, out
        assert "error: " in out
        all_is_well(product, lab, rows, stamp, swapped=False)

    def test_script_that_swaps(self, product, lab, rows, stamp):
        hunter = hunt(lab, "swap")
        client = begin_replace(lab, stamp, "stopping it")
        out, _ = client.communicate(timeout=300)
        hunter.wait(20)
        # Its sessions may have changed the names before they ended: the server was asked.
        swapped = client.returncode == 0
        if swapped:
            assert "all the same: nocodb_restored_" in out
            assert "NocoDB answers from its database" in out
        else:
            assert client.returncode == 1, out
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
        out, _ = client.communicate(timeout=300)
        # Whatever else is said: the app is on its way up.
        assert is_up(lab), out
        swapped = client.returncode == 0
        if swapped:
            assert "NocoDB answers from its database" in out
        else:
            assert (client.returncode, step) == (1, "stopping it"), out
            assert "its guard on manager1 ended without a word; nothing was swapped" in out
        if hunter:
            assert hunter.wait(20) == 0
        all_is_well(product, lab, rows, stamp, swapped=swapped)


def hunt(lab, what: str) -> subprocess.Popen[bytes]:
    """Kills the script hard as soon as it does this. The pattern matches it, not who looks."""
    kill = f"until pkill -9 -f '[r]estore-pg.sh {what}'; do sleep 0.02; done"
    return subprocess.Popen(["docker", "exec", lab.container("db1"), "sh", "-c", kill])


class TestDrill:
    def test_good_one_is_on_record_and_leaves_nothing(self, product, lab, bucket, stamp):
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
        self.nothing_is_left(lab)

    def test_with_the_app(self, product, lab, bucket, stamp):
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
        self.nothing_is_left(lab)

    def test_killed_hard_leaves_what_the_next_one_removes(self, product, lab, stamp):
        command = ["docker", "exec", lab.container("db1"), SCRIPT, "drill"]
        drill = subprocess.Popen([*command, "--database", "nocodb", "--set", stamp])
        eventually(lambda: bool(docker(lab, "db1", *DRILLS)))
        lab.exec("db1", "pkill", "-9", "-f", f"{SCRIPT} drill")
        drill.wait(20)
        assert docker(lab, "db1", *DRILLS)
        product.ok("backup.drill", "--key", stamp)
        self.nothing_is_left(lab)

    def test_scheduled(self, product, lab, variant):
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

    @staticmethod
    def nothing_is_left(lab) -> None:
        assert docker(lab, "db1", *DRILLS) == ""
        assert docker(lab, "db1", "volume", "ls", "-q") == "dbstack_pgdata"
        left = lab.exec("db1", "sh", "-c", f"ls {FOLDER}/*.partial").returncode
        assert left != 0


DRILLS = ("ps", "-aq", "--filter", "label=swarmkeep.drill")
