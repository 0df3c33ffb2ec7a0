"""Backups that go wrong for real: right exit code, one clear line, nothing half-done or lost."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fabfile.backup.object_keys import Keys
from lab.members import wait_until_healthy
from tests.e2e.backup_place import SCRIPT, OnNode
from tests.e2e.live import container_of, eventually
from tests.unit.s3_server import manifest_of

DB = "dbstack_root_db"
FOLDER = "/var/backups/postgres/nocodb"


@pytest.fixture(scope="module")
def installed(deployed) -> None:
    deployed.ok("backup.install")
    deployed.ok("backup.run")


@pytest.fixture
def place(lab, installed) -> OnNode:
    return OnNode(lab)


@pytest.fixture
def script(place) -> Iterator[Callable[..., subprocess.CompletedProcess[bytes]]]:
    """Runs the script with some settings changed."""
    config = "/etc/backup-pg-test.conf"

    def run(**settings: str):
        lines = "".join(f"{key}='{value}'\n" for key, value in settings.items())
        base = place.run("cat", place.config).stdout
        keep = f"umask 077; cat > {config}"
        assert place.run("sh", "-c", keep, input=base + lines.encode()).returncode == 0
        done = place.run(SCRIPT, "--config", config)
        print(done.stderr.decode())
        return done

    yield run
    place.run("rm", "-f", config)


@pytest.fixture
def held(lab) -> Iterator[Callable[[], None]]:
    """A client that holds a lock which pg_dump has to wait for; call to release it."""
    container = container_of(lab, "db1", DB)
    sql = "BEGIN; LOCK TABLE nc_users_v2 IN ACCESS EXCLUSIVE MODE; SELECT 'held';"
    command = ["docker", "exec", "-i", lab.container("db1"), "docker", "exec", "-i", container]
    client = subprocess.Popen(
        [*command, "psql", "-XAtq", "-U", "nocodb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdin
    assert client.stdout
    client.stdin.write(sql.encode() + b"\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"held\n"

    def release() -> None:
        client.stdin.close()
        client.wait(20)

    yield release
    if client.poll() is None:
        release()


def start_run(place) -> subprocess.Popen[bytes]:
    """Start the script and return once its pg_dump waits for the lock."""
    run = subprocess.Popen(
        [*place.words(), SCRIPT, "--config", place.config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 30
    while not pg_dumps(place.lab):
        assert time.monotonic() < end
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.2)
    return run


def pg_dumps(lab) -> str:
    """Process ids of pg_dump in whatever container of the db node, as the node sees them."""
    return lab.exec("db1", "pgrep", "-x", "pg_dump").stdout.decode().strip()


def files(place, folder: str = FOLDER) -> list[str]:
    return sorted(place.run("ls", "-A", folder).stdout.decode().split())


def keys(lab, bucket) -> set[str]:
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix="postgres/nocodb/backup_")
    every = {item["Key"] for item in found.get("Contents", [])}
    return {key for key in every if key.endswith(".manifest.json")}


def error(done) -> str:
    lines = [line for line in done.stderr.decode().splitlines() if " ERROR " in line]
    assert lines, done.stderr
    return lines[-1]


def test_database_service_absent(script, place, lab, bucket):
    before = files(place), keys(lab, bucket)
    done = script(DB_SERVICE_NAME="dbstack_other")
    assert done.returncode == 11
    assert re.search(
        "service dbstack_other (has no running container|does not answer)", error(done)
    )
    assert (files(place), keys(lab, bucket)) == before


def test_a_run_without_the_databases_container_is_refused(product, place, variant, lab, bucket):
    before = files(place), keys(lab, bucket)
    ran = product.fails(1, "backup.run", hosts=variant({"db_service_name": "dbstack_other"}))
    assert "dbstack_other: no running container on db1" in ran.err
    assert (files(place), keys(lab, bucket)) == before


def test_pg_dump_killed_half_way(place, lab, bucket, held):
    before = files(place), keys(lab, bucket)
    run = start_run(place)
    lab.exec("db1", "kill", "-9", *pg_dumps(lab).split())
    _, err = run.communicate(timeout=60)
    assert run.returncode == 16, err
    assert b"the dump failed" in err
    assert (files(place), keys(lab, bucket)) == before


def test_script_killed_hard_half_way_and_run_again(product, place, lab, held):
    before = files(place)
    run = start_run(place)
    lab.exec("db1", "pkill", "-9", "-f", f"/bin/bash {SCRIPT}")
    run.wait(30)
    assert any("partial" in name for name in files(place))
    held()
    product.ok("backup.run")
    assert not any("partial" in name for name in files(place))
    assert (
        len([n for n in files(place) if n.endswith(".dump.gz")])
        == len([n for n in before if n.endswith(".dump.gz")]) + 1
    )
    assert pg_dumps(lab) == ""


def test_two_runs_at_once(product, place, lab, bucket, held):
    before = keys(lab, bucket)
    first = start_run(place)
    ran = product.inv("backup.run")
    assert ran.code == 10
    assert "another run is in progress" in ran.out
    held()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert len(keys(lab, bucket)) == len(before) + 1


def test_too_little_space_and_disk_full(script, place, lab, bucket):
    before = keys(lab, bucket)
    folder = "/var/backups/small"
    place.run("mkdir", "-p", folder)
    mounted = place.mount("mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", folder)
    assert mounted.returncode == 0, mounted.stderr
    try:
        done = script(BACKUP_DIR=folder)
        assert done.returncode == 14
        assert "bytes free, a dump needs about" in error(done)
        # A small earlier dump makes the estimate small, so the run begins and the disk fills up.
        small = f"{folder}/nocodb/backup_20200101T000000Z"
        make = f"echo x > {small}.dump.gz && echo {{}} > {small}.manifest.json"
        place.run("sh", "-c", f"{make} && : > {small}.uploaded")
        done = script(BACKUP_DIR=folder)
        assert done.returncode == 15
        assert "filled up" in error(done)
        assert not any("partial" in name for name in files(place, f"{folder}/nocodb"))
    finally:
        place.mount("umount", folder)
        place.run("rmdir", folder)
    assert keys(lab, bucket) == before


def test_wrong_key_and_no_such_bucket_keep_the_dump_for_the_next_run(
    product, script, place, lab, bucket
):
    before = keys(lab, bucket)
    wrong = b"[default]\naws_access_key_id = nobody\naws_secret_access_key = wrong\n"
    place.run("sh", "-c", "umask 077; cat > /root/wrong.aws", input=wrong)
    try:
        done = script(AWS_SHARED_CREDENTIALS_FILE="/root/wrong.aws")
    finally:
        place.run("rm", "-f", "/root/wrong.aws")
    assert done.returncode == 18
    assert "check this node's AWS key" in error(done)
    # The dumps' names have a resolution of one second.
    time.sleep(1)
    done = script(S3_BUCKET="no-such-bucket")
    assert done.returncode == 18
    assert "create bucket no-such-bucket" in error(done)
    assert keys(lab, bucket) == before
    ran = product.ok("backup.run")
    assert ran.out.count("uploaded what an earlier run could not") == 2
    assert len(keys(lab, bucket)) == len(before) + 3


def test_s3_away_then_back(product, installed, lab, bucket):
    before = keys(lab, bucket)
    subprocess.run(["docker", "stop", "-t", "5", lab.container("s3")], check=True)
    try:
        ran = product.inv("backup.run")
        assert ran.code == 18
        assert f"check that this node reaches {lab.s3_url}" in ran.out
        verdict = product.fails(3, "backup.verify")
        assert lab.s3_url in verdict.err
    finally:
        subprocess.run(["docker", "start", lab.container("s3")], check=True)
        wait_until_healthy(lab, "s3")
    assert keys(lab, bucket) == before
    said = run_to_its_end(product) + product.ok("backup.logs").out
    assert "uploaded what an earlier run could not" in said
    # In a container its own clock may have made one in the meantime.
    assert len(keys(lab, bucket)) - len(before) in (2, 3)


def run_to_its_end(product) -> str:
    """What a backup says that was made after whatever ran just now."""
    said: list[Any] = []

    def ran() -> bool:
        said.append(product.inv("backup.run"))
        return said[-1].code != 10

    eventually(ran)
    assert said[-1].code == 0, said[-1].text
    return str(said[-1].out)


CUTTER = """
import socket, sys, threading
# Forwards to the S3 server, and cuts each connection after a few kilobytes.
server = socket.create_server(("127.0.0.1", 9999))
print("ready", flush=True)
def pump(a, b, most):
    try:
        while most > 0 and (data := a.recv(4096)):
            b.sendall(data)
            most -= len(data)
    except OSError:
        pass
    for s in (a, b):
        s.close()
while True:
    client, _ = server.accept()
    target = socket.create_connection((sys.argv[1], 9000))
    threading.Thread(target=pump, args=(client, target, 12000), daemon=True).start()
    threading.Thread(target=pump, args=(target, client, 1 << 30), daemon=True).start()
"""


def test_connection_cut_in_the_middle_of_the_upload(product, script, place, lab, bucket):
    before = keys(lab, bucket)
    cutter = subprocess.Popen(
        [*place.words(), "python3", "-c", CUTTER, lab.addresses["s3"]],
        stdout=subprocess.PIPE,
    )
    assert cutter.stdout
    assert cutter.stdout.readline() == b"ready\n"
    try:
        done = script(S3_ENDPOINT_URL="http://127.0.0.1:9999")
    finally:
        lab.exec("db1", "pkill", "-f", "Forwards to the S3 server")
        cutter.wait(20)
    assert done.returncode == 18
    assert keys(lab, bucket) == before
    assert "uploaded what an earlier run could not" in product.ok("backup.run").out
    assert len(keys(lab, bucket)) == len(before) + 2
    product.ok("backup.verify", "--deep")


def test_install_says_what_keeps_the_backup_from_working(product, installed, variant, lab):
    hosts = variant({"s3_bucket_name": "no-such-bucket"})
    ran = product.fails(1, "backup.install", hosts=hosts)
    assert "db1: the backup is installed but cannot work" in ran.err
    assert "create bucket no-such-bucket" in ran.err
    # A failed check is not forgotten: the same installation is not called good later.
    product.fails(1, "backup.install", hosts=hosts)
    assert "ready" in product.ok("backup.install").out


def test_dead_host_hides_nobody(product, variant, lab):
    product.ok("backup.install")
    dead = {"dead1": {"address": lab.addresses["s3"], "role": "db"}}
    ran = product.fails(3, "backup.install", hosts=variant({"hosts": dead}))
    assert "db1: nothing to change" in ran.out
    assert f"dead1 ({lab.addresses['s3']}:22): connection refused" in ran.err


@pytest.mark.usefixtures("installed")
class TestVerify:
    """Against the real S3 server; every rule and distribution is in tests/unit."""

    @pytest.fixture
    def hosts(self, variant, lab, bucket):
        """A hosts file for another database, whose place in the bucket is empty."""
        yield variant({"pg_db": "verifydb", "backup": {"files": False}})
        for key in self.held(lab, bucket):
            bucket.delete_object(Bucket=lab.bucket, Key=key)

    @staticmethod
    def held(lab, bucket) -> list[str]:
        found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix="postgres/verifydb/")
        return [item["Key"] for item in found.get("Contents", [])]

    @staticmethod
    def put(
        lab, bucket, ago: float, size: int, claimed: int | None = None, without: str = ""
    ) -> None:
        """Put a set there that was made `ago` seconds ago, perhaps without one of its parts."""
        second = int(time.time() - ago)
        contents = {"dump": b"x" * size, "globals": b"y"}
        manifest = manifest_of("verifydb", second, contents)
        manifest["parts"]["dump"]["bytes"] = size if claimed is None else claimed
        contents["manifest"] = json.dumps(manifest).encode()
        contents.pop(without, None)
        for part, content in contents.items():
            key = Keys("verifydb").part(second, part)
            bucket.put_object(Bucket=lab.bucket, Key=key, Body=content)

    def test_empty_bucket(self, product, hosts):
        assert "found" in product.fails(4, "backup.verify", hosts=hosts).err

    def test_stale(self, product, hosts, lab, bucket):
        self.put(lab, bucket, 30 * 3600, 5000)
        assert "1 of 9 checks: fresh" in product.fails(4, "backup.verify", hosts=hosts).err

    def test_too_small(self, product, hosts, lab, bucket):
        self.put(lab, bucket, 60, 20)
        assert "1 of 9 checks: size" in product.fails(4, "backup.verify", hosts=hosts).err

    def test_shrunk(self, product, hosts, lab, bucket):
        for day in range(1, 6):
            self.put(lab, bucket, day * 86400, 50_000)
        self.put(lab, bucket, 60, 9_000)
        assert "1 of 9 checks: shrunk" in product.fails(4, "backup.verify", hosts=hosts).err

    def test_truncated(self, product, hosts, lab, bucket):
        self.put(lab, bucket, 60, 5000, claimed=9000)
        assert "1 of 9 checks: complete" in product.fails(4, "backup.verify", hosts=hosts).err

    @pytest.mark.parametrize(
        ("part", "end"), [("dump", ".dump.gz"), ("globals", ".globals.sql.gz")]
    )
    def test_missing_part(self, product, hosts, lab, bucket, part, end):
        self.put(lab, bucket, 60, 5000, without=part)
        ran = product.fails(4, "backup.verify", hosts=hosts)
        assert f"{end} is missing" in ran.out
        assert "complete" in ran.err

    @pytest.mark.parametrize("part", ["dump", "globals"])
    def test_flipped_byte_of_a_real_set_is_seen_by_a_deep_read(self, product, lab, bucket, part):
        found = json.loads(product.ok("backup.verify", "--json").out)
        key = found["manifest"]["parts"][part]["key"]
        good = bucket.get_object(Bucket=lab.bucket, Key=key)
        body = good["Body"].read()
        flipped = body[:-4] + bytes([body[-4] ^ 1]) + body[-3:]
        bucket.put_object(Bucket=lab.bucket, Key=key, Body=flipped, Metadata=good["Metadata"])
        try:
            product.ok("backup.verify")  # sizes do not show it
            ran = product.fails(4, "backup.verify", "--deep", "--json")
            failed = {check["name"] for check in json.loads(ran.out)["checks"] if not check["ok"]}
            assert {"proven", "sha256" if part == "dump" else "globals"} <= failed
            # From now on everybody knows.
            assert "proven" in product.fails(4, "backup.verify").err
            assert "failed deep read" in product.ok("backup.list").out
        finally:
            bucket.put_object(Bucket=lab.bucket, Key=key, Body=body, Metadata=good["Metadata"])
        product.ok("backup.verify", "--deep")
        product.ok("backup.verify")

    def test_failed_drill(self, product, hosts, lab, bucket):
        self.put(lab, bucket, 60, 5000)
        key = next(key for key in self.held(lab, bucket) if key.endswith(".manifest.json"))
        outcome = {
            "format": 1,
            "outcome": "failed",
            "reason": "public.t: 3 rows instead of 4",
            "finished": "2026-11-22T10:00:00Z",
            "seconds": 9,
        }
        product.ok("backup.verify", hosts=hosts)
        beside = key.replace(".manifest.json", ".drill.json")
        bucket.put_object(Bucket=lab.bucket, Key=beside, Body=json.dumps(outcome).encode())
        ran = product.fails(4, "backup.verify", hosts=hosts)
        assert "1 of 9 checks: proven" in ran.err
        assert "public.t: 3 rows instead of 4" in ran.out
        assert "failed drill" in product.ok("backup.list", hosts=hosts).out

    def test_garbage_is_not_a_backup_and_deep_reads_what_is(self, product, hosts, lab, bucket):
        for name in ("backup_zzz", "backup_20269999T000000Z.dump.gz", "readme.txt", "~/x"):
            key = f"postgres/verifydb/{name}"
            bucket.put_object(Bucket=lab.bucket, Key=key, Body=b"x" * 5000)
        assert "checks: found" in product.fails(4, "backup.verify", hosts=hosts).err
        self.put(lab, bucket, 60, 5000)
        product.ok("backup.verify", hosts=hosts)
        ran = product.fails(4, "backup.verify", "--deep", hosts=hosts)
        assert "gzip" in ran.err

    def test_no_permission(self, product, hosts, tmp_path):
        (tmp_path / "aws").write_text(
            "[default]\naws_access_key_id = nobody\naws_secret_access_key = wrong\n"
        )
        env = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws")}
        ran = product.fails(3, "backup.verify", hosts=hosts, env=env)
        assert "InvalidAccessKeyId" in ran.err or "key" in ran.err
