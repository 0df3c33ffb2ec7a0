"""The backup as a user has it: installed, run by hand and by cron, verified, restored by hand."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, datetime

import botocore.exceptions
import pytest

from lab import demo, s3
from tests.e2e.live import container_of, docker

pytestmark = pytest.mark.usefixtures("plain_aws")

DB = "dbstack_root_db"
PREFIX = "postgres/nocodb/backup_"
MANIFEST = ".manifest.json"


@pytest.fixture(scope="module", autouse=True)
def installed(deployed):
    deployed.ok("backup.install")


def keys(bucket, lab) -> list[str]:
    """The manifests: one for each set that counts."""
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix=PREFIX)
    every = [item["Key"] for item in found.get("Contents", [])]
    return [key for key in every if key.endswith(MANIFEST)]


def test_before_the_first_backup_verify_fails_and_list_is_empty(product, bucket, lab):
    assert keys(bucket, lab) == []
    ran = product.fails(4, "backup.verify")
    assert "found" in ran.text
    assert "inv backup.run" in ran.text
    assert "no backup in s3://" in product.ok("backup.list").out


def test_install_reports_what_it_changed_and_then_nothing(product, lab):
    assert "db1: nothing to change" in product.ok("backup.install").out
    lab.exec("db1", "sh", "-c", "echo '# edited' >> /etc/cron.d/backup-pg")
    ran = product.ok("backup.install")
    assert ran.out.splitlines() == [
        "db1: /etc/cron.d/backup-pg",
        "db1: ready: the bucket can be written, the database answers",
        "app1: nothing to change",
    ]
    logged = json.loads(product.ok("audit", "--lines", "1", "--json").out)[0]
    assert (logged["command"], logged["outcome"]) == ("backup.install", "ok")
    assert logged["changes"] == ["db1: /etc/cron.d/backup-pg"]


def test_installed_files_are_for_root_where_they_hold_secrets(lab):
    paths = ["/usr/local/bin/backup-pg.sh", "/etc/backup-pg.conf", "/etc/backup-pg.aws"]
    paths += ["/etc/cron.d/backup-pg", "/etc/logrotate.d/backup-pg"]
    modes = lab.exec("db1", "stat", "-c", "%n %a %U", *paths).stdout.decode().splitlines()
    assert [line.split()[1:] for line in modes] == [
        ["755", "root"],
        ["600", "root"],
        ["600", "root"],
        ["644", "root"],
        ["644", "root"],
    ]
    secret = lab.secrets[s3.NODE]["secret_key"]
    config = lab.exec("db1", "cat", "/etc/backup-pg.conf", "/etc/cron.d/backup-pg").stdout.decode()
    assert secret not in config
    assert lab.exec("db1", "logrotate", "-d", "/etc/logrotate.d/backup-pg").returncode == 0


def test_missing_packages_are_installed(product, lab):
    lab.exec("db1", "apt-get", "remove", "-y", "-qq", "pigz", timeout=300)
    assert lab.exec("db1", "sh", "-c", "command -v pigz").returncode != 0
    assert "db1: package pigz" in product.ok("backup.install").out
    assert lab.exec("db1", "sh", "-c", "command -v pigz").returncode == 0


def test_a_run_puts_the_data_into_the_bucket_and_verify_says_so(product, rows, bucket, lab):
    before = len(keys(bucket, lab))
    ran = product.ok("backup.run")
    assert "INFO" in ran.out
    assert "backup complete database=nocodb" in ran.out
    assert len(keys(bucket, lab)) == before + 1
    verdict = json.loads(product.ok("backup.verify", "--deep", "--json").out)
    assert verdict["ok"]
    assert {c["name"] for c in verdict["checks"] if c["ok"]} >= {
        "found",
        "fresh",
        "size",
        "complete",
        "sha256",
        "gzip",
        "archive",
    }
    newest = keys(bucket, lab)[-1]
    assert verdict["key"] == newest
    # To find the newest at most five and its deep read; the last drill, the attachments' state;
    # the first page, and the manifest and proofs of the oldest set.
    assert json.loads(product.ok("backup.verify", "--json").out)["requests"] <= 6 + 2 + 4
    line = next(x for x in product.ok("backup.list").out.splitlines() if verdict["set"] in x)
    assert "deep-read" in line


def test_the_manifest_has_every_tables_rows_and_what_runs(product, rows, bucket, lab):
    body = bucket.get_object(Bucket=lab.bucket, Key=keys(bucket, lab)[-1])["Body"].read()
    manifest = json.loads(body)
    container = container_of(lab, "db1", DB)
    assert manifest["rows"] == _counts(lab, container, "nocodb")
    assert any(not name.startswith("public.") for name in manifest["rows"]), "the base's schema"
    assert set(manifest["images"]) == {"dbstack_root_db", "appstack_nocodb"}
    assert manifest["images"]["appstack_nocodb"].startswith("swarmkeep-lab/nocodb:")
    assert manifest["server_version_num"] // 10000 == 15
    assert manifest["encoding"] == "UTF8"
    assert "plpgsql" in manifest["extensions"]
    globals_ = bucket.get_object(Bucket=lab.bucket, Key=manifest["parts"]["globals"]["key"])
    assert b"CREATE ROLE nocodb;" in gzip.decompress(globals_["Body"].read())


def test_attachments_are_in_the_bucket_and_verify_says_so(product, rows, bucket, lab):
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix="files/appstack/data/")["Contents"]
    contents = [
        bucket.get_object(Bucket=lab.bucket, Key=item["Key"])["Body"].read() for item in found
    ]
    assert demo.manual(lab) in contents
    checks = json.loads(product.ok("backup.verify", "--json").out)["checks"]
    (files,) = [check for check in checks if check["name"] == "files app1"]
    assert files["ok"]
    # What goes on the node stays in the bucket.
    volume = docker(lab, "app1", "volume", "inspect", "-f", "{{.Mountpoint}}", "appstack_data")
    extra = f"{volume}/nc/uploads/gone.txt"
    lab.exec("app1", "sh", "-c", f"echo here >{extra}")
    product.ok("backup.run")
    lab.exec("app1", "rm", extra)
    product.ok("backup.run")
    key = "files/appstack/data/nc/uploads/gone.txt"
    assert bucket.get_object(Bucket=lab.bucket, Key=key)["Body"].read() == b"here\n"
    bucket.delete_object(Bucket=lab.bucket, Key=key)


def test_deep_reads_the_archive_in_the_container_where_there_is_no_pg_restore(product, tmp_path):
    ran = product.ok("backup.verify", "--deep", env={"PATH": str(tmp_path)})
    assert "pg_restore has read it to its end on db1" in ran.out


def test_restored_by_hand_with_plain_tools_every_row_is_there(product, rows, bucket, lab):
    """As docs/backup.md says: aws s3 cp, gunzip, pg_restore."""
    body = bucket.get_object(
        Bucket=lab.bucket, Key=keys(bucket, lab)[-1].replace(MANIFEST, ".dump.gz")
    )
    body = body["Body"].read()
    container = container_of(lab, "db1", DB)
    docker(lab, "db1", "exec", container, "createdb", "-U", "nocodb", "by_hand")
    try:
        pipe = f"gunzip | docker exec -i {container} pg_restore -U nocodb -d by_hand"
        done = lab.exec("db1", "bash", "-o", "pipefail", "-c", pipe, input=body)
        assert done.returncode == 0, done.stderr
        live, restored = (_counts(lab, container, name) for name in ("nocodb", "by_hand"))
        assert restored == live
        assert sum(restored.values()) > len(rows) > 0
    finally:
        docker(lab, "db1", "exec", container, "dropdb", "-U", "nocodb", "by_hand")


def test_the_nodes_key_may_write_but_not_delete(product, bucket, lab):
    node = s3.client(lab, lab.secrets[s3.NODE])
    key = keys(bucket, lab)[-1]
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        node.delete_object(Bucket=lab.bucket, Key=key)
    assert key in keys(bucket, lab)


def test_cron_makes_a_backup_that_nobody_called(product, variant, bucket, lab):
    before = keys(bucket, lab)
    every_minute = variant({"backup": {"schedule": "* * * * *"}})
    product.ok("backup.install", hosts=every_minute)
    try:
        end = time.monotonic() + 150
        while keys(bucket, lab) == before:
            assert time.monotonic() < end, "cron has made no backup"
            time.sleep(1)
        # The object lands a moment before the run ends and says so in the log.
        said = f"key={keys(bucket, lab)[len(before)]}"
        while said not in product.ok("backup.logs").out:
            assert time.monotonic() < end, "the run has not said that it is complete"
            time.sleep(1)
    finally:
        product.ok("backup.install")


def test_times_are_utc_on_a_node_of_another_time_zone(product, bucket, lab):
    lab.exec("db1", "ln", "-sf", "/usr/share/zoneinfo/Pacific/Auckland", "/etc/localtime")
    try:
        assert lab.exec("db1", "date", "+%Z").stdout.decode().startswith("NZ")
        product.ok("backup.run")
        product.ok("backup.verify")
    finally:
        lab.exec("db1", "ln", "-sf", "/usr/share/zoneinfo/Etc/UTC", "/etc/localtime")
    newest = keys(bucket, lab)[-1].removeprefix(PREFIX).partition(".")[0]
    made = datetime.strptime(newest, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - made).total_seconds()) < 120


def test_with_a_sudo_user_and_its_password(product, lab, variant):
    hosts = variant({"ssh": {"user": "deploy", "become": True}})
    ran = product.ok(
        "--prompt-for-sudo-password",
        "backup.run",
        hosts=hosts,
        stdin=lab.secrets["deploy_password"] + "\n",
    )
    assert "backup complete database=nocodb" in ran.out
    ran = product.fails(
        3, "--prompt-for-sudo-password", "backup.run", hosts=hosts, stdin="not the password\n"
    )
    assert "sudo refused the password" in ran.err


def test_uninstall_removes_everything_but_dumps_and_log(product, lab):
    ran = product.ok("backup.uninstall")
    assert "db1: removed /etc/cron.d/backup-pg" in ran.out
    left = lab.exec("db1", "sh", "-c", "ls /etc/*backup-pg* /etc/cron.d /usr/local/bin /var/lib")
    assert "backup-pg" not in left.stdout.decode()
    assert lab.exec("db1", "test", "-s", "/var/log/backup-pg.log").returncode == 0
    assert lab.exec("db1", "sh", "-c", "ls /var/backups/postgres/nocodb/*.gz").returncode == 0
    gone = lab.exec("app1", "sh", "-c", "ls /etc/*backup-files* /etc/cron.d /usr/local/bin")
    assert "backup-files" not in gone.stdout.decode()
    assert "nothing to remove" in product.ok("backup.uninstall").out
    assert "is not installed" in product.fails(1, "backup.run").err


def _counts(lab, container: str, database: str) -> dict[str, int]:
    """Exact row counts of every user table."""
    each = "format('SELECT count(*) AS c FROM %I.%I', table_schema, table_name)"
    query = (
        "SELECT format('%I.%I', table_schema, table_name), (xpath('/row/c/text()',"
        f" query_to_xml({each}, false, true, '')))[1]::text"
        " FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
        " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    out = docker(
        lab, "db1", "exec", container, "psql", "-U", "nocodb", "-d", database, "-XAtc", query
    )
    pairs = (line.rsplit("|", 1) for line in out.splitlines())
    return {name: int(count) for name, count in pairs}
