"""A set into a database of its own; and sets that are refused, by whom and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.live import databases, key, outcome, sql

SCRIPT = "/usr/local/bin/restore-pg.sh"
FOLDER = "/var/backups/postgres/nocodb"

pytestmark = pytest.mark.usefixtures("stamp", "tidy")


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


def manifest(**changes) -> Callable[[bytes], bytes]:
    """A change of a manifest's fields."""
    return lambda body: json.dumps(json.loads(body) | changes).encode()


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
