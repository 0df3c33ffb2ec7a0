"""Backups that nobody else can read: switched on, drilled, restored, rekeyed, recovered.

With keys as people have them: one in the vault, one on paper, an SSH key.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base import age_encryption
from lab import demo
from tests.e2e.conftest import merged
from tests.e2e.live import (
    APP,
    DB,
    container_of,
    databases,
    docker,
    eventually,
    key,
    named,
    nocodb_shows,
    sql,
)

pytestmark = pytest.mark.usefixtures("tidy")

WAL = "/usr/local/bin/wal-pg.sh"
NEWEST_BASE = "/var/backups/postgres/.wal/newest-base"


class Keys:
    """The hosts file with recipients, its vault, and the identities that are not in it."""

    def __init__(self, product, lab, folder: Path) -> None:
        self.folder, self.lab, self.product = folder, lab, product
        data = yaml.safe_load(lab.hosts_file.read_text())
        vault = Path(data["vault"]["file"])
        source = vault if vault.is_absolute() else lab.hosts_file.parent / vault
        # A vault of its own, beside the lab's: what is set here is not the lab's.
        self.vault = lab.directory / "vault-encryption.yml"
        shutil.copy(source, self.vault)
        self.hosts = lab.directory / "hosts-encryption.yaml"
        self.change({"vault": {"file": str(self.vault)}}, data)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ann"], check=True
        )
        self.paper = folder / "paper"
        self.stranger = self._file("stranger", age_encryption.generate()[0])

    before: set[str]
    """What other tests have left of WAL in the bucket: it is in clear."""

    def _file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def change(self, changes: dict[str, Any], data: dict[str, Any] | None = None) -> None:
        data = data or yaml.safe_load(self.hosts.read_text())
        self.hosts.write_text(yaml.safe_dump(merged(data, changes), sort_keys=False))

    @property
    def recipients(self) -> list[str]:
        found: list[str] = yaml.safe_load(self.hosts.read_text())["backup"]["recipients"]
        return found


@pytest.fixture(scope="module")
def keys(product, lab, bucket, stamp, tmp_path_factory):
    """An installation without encryption (`stamp` is a set of it), which then gets keys."""
    made = Keys(product, lab, tmp_path_factory.mktemp("keys"))
    made.before = set(objects(bucket, lab, "wal/"))
    # `rekey` tells of sets of databases that hosts.yaml does not name.
    for one in objects(bucket, lab, "postgres/"):
        if not one.startswith("postgres/nocodb/"):
            bucket.delete_object(Bucket=lab.bucket, Key=one)
    product.ok("backup.keys", "--new", "--write", "--paper", str(made.paper), hosts=made.hosts)
    public = (made.folder / "ann.pub").read_text().strip()
    made.change({"backup": {"recipients": [*made.recipients, public], "pitr": True}})
    yield made
    # Other tests' sets and base backups are in clear: none of these is to be met there. That the
    # cluster which came back is the right one stays known.
    for prefix in ("wal/", "postgres/", "files/"):
        for one in set(objects(bucket, lab, prefix)) - {"postgres/nocodb/cluster.json"}:
            bucket.delete_object(Bucket=lab.bucket, Key=one)
    product.ok("backup.install")
    made.hosts.unlink()
    made.vault.unlink()


@pytest.fixture(scope="module")
def sealed(product, lab, keys, stamp) -> str:
    """The first encrypted set, its stamp. Nothing was changed but the hosts file."""
    container = container_of(lab, "db1", DB)
    ran = product.ok("backup.install", hosts=keys.hosts)
    assert "db1: package age" in ran.out
    assert "app1: package age" in ran.out
    product.ok("backup.run", hosts=keys.hosts)
    assert container_of(lab, "db1", DB) == container
    return newest(product, keys.hosts)


def newest(product, hosts) -> str:
    data = json.loads(product.ok("backup.list", "--json", "--limit", "1", hosts=hosts).out)
    return str(data["backups"][0]["set"])


def archive(lab) -> None:
    """Run the archiver once, as cron does; one that runs already is as good."""
    eventually(lambda: lab.exec("db1", WAL, "archive").returncode != 10, 60)


def objects(bucket, lab, prefix: str) -> list[str]:
    pages = bucket.get_paginator("list_objects_v2").paginate(Bucket=lab.bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def beginning(bucket, lab, name: str) -> bytes:
    body = bucket.get_object(Bucket=lab.bucket, Key=name, Range="bytes=0-20")["Body"]
    return bytes(body.read())


def test_switched_on_what_leaves_the_nodes_is_encrypted(product, lab, bucket, keys, sealed, stamp):
    ids = [age_encryption.key_id(age_encryption.recipient(one)) for one in keys.recipients]
    listed = product.ok("backup.list", hosts=keys.hosts).out

    def lines(of: str) -> list[str]:
        # More than one: a base backup that began in the same second has a line, too.
        return [line for line in listed.splitlines() if line.strip().startswith(of)]

    assert any(", ".join(ids) in line for line in lines(sealed)), listed
    assert any(" clear " in line for line in lines(stamp)), listed
    for part in ("dump.gz.age", "globals.sql.gz.age"):
        assert beginning(bucket, lab, key(sealed, part)) == b"age-encryption.org/v1"
    files = objects(bucket, lab, "files/appstack/encrypted/")
    assert files
    assert all(beginning(bucket, lab, one) == b"age-encryption.org/v1" for one in files)
    # Nothing of the new set can be read on the node, and no private key is there.
    there = lab.exec("db1", "sh", "-c", f"ls /var/backups/postgres/nocodb | grep {sealed}")
    ends = {name.partition(".")[2] for name in there.stdout.decode().split()}
    assert ends == {"dump.gz.age", "globals.sql.gz.age", "manifest.json", "sha256", "uploaded"}
    found = lab.exec(
        "db1", "grep", "-rlE", "AGE-SECRET-KEY|OPENSSH PRIVATE",
        "/etc/backup-pg.conf", "/var/backups", "/var/lib", "/var/log", "/tmp", "/root",
        "--exclude-dir=docker",
    )  # fmt: skip
    assert found.stdout == b""


def test_verify_looks_at_the_objects_and_a_clear_attachment_fails_it(product, keys, sealed):
    ran = product.fails(4, "backup.verify", hosts=keys.hosts)
    assert "for 3 keys, as 3 objects say" in ran.out
    # Those that were uploaded before are still there, in clear.
    assert "files encrypted" in ran.err
    assert "inv backup.rekey" in ran.out


def test_each_identity_brings_it_back_and_no_other(product, lab, keys, sealed):
    hosts = keys.hosts
    before = sql(lab, "SELECT count(*) FROM nc_users_v2", "nocodb")
    for number, identity in enumerate(([], ["--identity", str(keys.paper)],
                                       ["--identity", str(keys.folder / "ann")])):  # fmt: skip
        ran = product.ok("backup.restore", "--into", f"back{number}", *identity, hosts=hosts)
        assert "as recorded" in ran.out
        assert sql(lab, "SELECT count(*) FROM nc_users_v2", f"back{number}") == before
    there = databases(lab)
    ran = product.fails(
        2, "backup.restore", "--into", "never", "--identity", str(keys.stranger), hosts=hosts
    )
    assert f"set {sealed} of nocodb" in ran.out
    assert "it is encrypted for keys" in ran.err
    assert "the identity at hand" in ran.err
    # The vault without it: as if it were lost.
    bare = keys.hosts.with_name("hosts-bare.yaml")
    data = yaml.safe_load(hosts.read_text())
    data["vault"] = yaml.safe_load(lab.hosts_file.read_text())["vault"]
    bare.write_text(yaml.safe_dump(data))
    try:
        ran = product.fails(2, "backup.restore", "--into", "never", hosts=bare)
        assert "no identity is at hand" in ran.err
        product.ok("backup.restore", "--key", keys_clear(product, bare), "--into", "c", hosts=bare)
    finally:
        bare.unlink()
    assert databases(lab) == there | {"c"}
    # The archiver may just be at work.
    eventually(lambda: leftovers(lab) == "", 60)


def keys_clear(product, hosts) -> str:
    """The newest set that is not encrypted: it needs no identity."""
    data = json.loads(product.ok("backup.list", "--json", hosts=hosts).out)
    return str(next(one["set"] for one in data["backups"] if not one["recipients"]))


def leftovers(lab) -> str:
    """What a restore may leave of decrypted files."""
    script = "find /var/backups/postgres /var/lib/backup-files -name '*.partial*' 2>/dev/null"
    return str(lab.exec("db1", "sh", "-c", f"{script}; true").stdout.decode())


def test_drills_with_the_vaults_key_the_paper_key_and_by_cron(product, lab, keys, sealed):
    hosts = keys.hosts
    assert "drilled: set" in product.ok("backup.drill", hosts=hosts).out
    ran = product.ok("backup.drill", "--identity", str(keys.paper), hosts=hosts)
    assert f"drilled: set {sealed} of nocodb" in ran.out
    keys.change({"backup": {"drill_schedule": "0 4 * * *"}})
    try:
        refused = product.fails(2, "backup.install", hosts=hosts)
        assert "with backup.recipients the nodes cannot read what they wrote" in refused.text
        keys.change({"backup": {"drill_identity": True}})
        ran = product.fails(1, "backup.install", hosts=hosts)
        assert "the vault has no vault_drill_identity" in ran.text
        product.ok("backup.keys", "--drill", "--write", hosts=hosts)
        product.ok("backup.install", hosts=hosts)
        mode = lab.exec("db1", "stat", "-c", "%a %U", "/etc/backup-pg.identity")
        assert mode.stdout.decode().split() == ["600", "root"]
        product.ok("backup.run", hosts=hosts)
        line = lab.exec("db1", "grep", "drill", "/etc/cron.d/backup-pg").stdout.decode()
        command = line.split(" root ", 1)[1].strip()
        # The WAL in it is not there yet: what counts is the set's drill.
        command = command.partition("; ")[0].lstrip("(") if "; " in command else command
        done = lab.exec("db1", "sh", "-c", command, timeout=300)
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        fresh = newest(product, hosts)
        assert "drilled" in product.ok("backup.list", "--limit", "1", hosts=hosts).out
        assert fresh > sealed
    finally:
        keys.change({"backup": {"drill_schedule": None, "drill_identity": None}})
        product.ok("backup.install", hosts=hosts)
    assert lab.exec("db1", "test", "-e", "/etc/backup-pg.identity").returncode == 1


def test_damaged_and_cut_off_in_the_bucket(product, lab, bucket, keys, sealed):
    there = databases(lab)
    name = key(sealed, "dump.gz.age")
    good = bucket.get_object(Bucket=lab.bucket, Key=name)
    body, about = good["Body"].read(), good["Metadata"]
    flipped = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
    try:
        bucket.put_object(Bucket=lab.bucket, Key=name, Body=flipped, Metadata=about)
        # The one on the node is good and is used; a drill is about the bucket.
        ran = product.fails(4, "backup.drill", "--key", sealed, hosts=keys.hosts)
        assert "is damaged: its SHA-256 is" in ran.err
        bucket.put_object(Bucket=lab.bucket, Key=name, Body=body[:-100], Metadata=about)
        ran = product.fails(4, "backup.restore", "--key", sealed, "--into", "n", hosts=keys.hosts)
        assert "cannot be restored" in ran.err
        bucket.put_object(Bucket=lab.bucket, Key=name, Body=bytes(len(body)), Metadata=about)
        ran = product.fails(4, "backup.drill", "--key", sealed, hosts=keys.hosts)
    finally:
        bucket.put_object(Bucket=lab.bucket, Key=name, Body=body, Metadata=about)
    assert databases(lab) == there
    product.ok("backup.drill", "--key", sealed, hosts=keys.hosts)


def test_back_to_a_second_from_encrypted_wal(product, lab, bucket, keys, sealed):
    from tests.e2e.test_8_pitr import now

    archive(lab)
    eventually(lambda: lab.exec("db1", "test", "-f", NEWEST_BASE).returncode == 0)
    archive(lab)
    sql(lab, "CREATE TABLE work AS SELECT n FROM generate_series(1, 1000) n", "nocodb")
    when = now()
    sql(lab, "DROP TABLE work", "nocodb")
    archive(lab)
    archive(lab)
    wal = set(objects(bucket, lab, "wal/")) - keys.before
    wal = {one for one in wal if not one.endswith(".json")}
    assert wal
    assert all(beginning(bucket, lab, one) == b"age-encryption.org/v1" for one in wal)
    ran = product.ok(
        "backup.restore", "--at", when, "--into", "then", "--identity", str(keys.paper),
        hosts=keys.hosts,
    )  # fmt: skip
    assert "as recorded" in ran.out
    assert sql(lab, "SELECT count(*) FROM work", "then") == "1000"
    refused = product.fails(
        2, "backup.restore", "--at", when, "--into", "no", "--identity", str(keys.stranger),
        hosts=keys.hosts,
    )  # fmt: skip
    assert "it is encrypted for keys" in refused.err
    ran = product.ok("backup.drill", "--at", "now", hosts=keys.hosts)
    assert "drilled: base backup and WAL replayed to the end" in ran.out


def test_rekey_takes_a_key_away_and_encrypts_what_was_clear(
    product, lab, bucket, keys, sealed, stamp
):
    """Ann has left: her key is no recipient any more, and reads nothing that is kept."""
    hosts = keys.hosts
    ann = next(one for one in keys.recipients if one.startswith("ssh-"))
    keys.change({"backup": {"recipients": [one for one in keys.recipients if one != ann]}})
    product.ok("backup.install", hosts=hosts)
    plan = product.ok("backup.rekey", hosts=hosts).out
    assert "to encrypt" in plan
    assert "nothing was changed" in plan
    product.ok("backup.rekey", "--yes", hosts=hosts, timeout=600)
    assert "nothing to encrypt" in product.ok("backup.rekey", hosts=hosts).out
    assert objects(bucket, lab, "files/appstack/data/") == []
    assert all(
        beginning(bucket, lab, one) == b"age-encryption.org/v1"
        for prefix in ("postgres/", "files/appstack/encrypted/", "wal/")
        for one in objects(bucket, lab, prefix)
        if not one.endswith((".json", ".write-check"))
    )
    refused = product.fails(
        2, "backup.drill", "--key", stamp, "--identity", str(keys.folder / "ann"), hosts=hosts
    )
    assert "it is encrypted for keys" in refused.err
    # The one that was made in clear, and one that was encrypted for her, too.
    for one in (stamp, sealed):
        ran = product.ok("backup.drill", "--key", one, "--identity", str(keys.paper), hosts=hosts)
        assert f"drilled: set {one} of nocodb" in ran.out
    product.ok("backup.run", hosts=hosts)
    archive(lab)
    ran = product.ok("backup.verify", hosts=hosts)
    assert "do not rely on it" not in ran.out
    # The WAL leads over segments that were encrypted anew and those after them.
    assert "replayed to the end" in product.ok("backup.drill", "--at", "now", hosts=hosts).out


def test_everything_is_lost_and_comes_back_with_the_paper_key(
    product, lab, bucket, keys, sealed, rows
):
    hosts = keys.hosts
    keys.change({"backup": {"manifest": "encrypted"}})
    product.ok("backup.install", hosts=hosts)
    product.ok("backup.run", hosts=hosts)
    archive(lab)
    last = newest(product, hosts)
    manifest = bucket.get_object(Bucket=lab.bucket, Key=key(last, "manifest.json"))["Body"].read()
    assert b"nc_users_v2" not in manifest
    assert "do not rely on it" not in product.ok("backup.verify", hosts=hosts).out
    docker(lab, "manager1", "stack", "rm", "appstack", "dbstack")
    for node, service, volume in (("db1", DB, "dbstack_pgdata"), ("app1", APP, "appstack_data")):
        label = f"label=com.docker.swarm.service.name={service}"
        eventually(lambda n=node, f=label: docker(lab, n, "ps", "-aq", "--filter", f) == "")
        docker(lab, node, "volume", "rm", volume)
    refused = product.fails(
        2, "recover", "--yes", "--identity", str(keys.stranger), hosts=hosts, timeout=600
    )
    assert "the identity at hand" in refused.err
    assert docker(lab, "manager1", "stack", "ls", "--format", "{{.Name}}") == ""
    ran = product.ok("recover", "--yes", "--identity", str(keys.paper), hosts=hosts, timeout=600)
    assert "recovery complete (" in ran.out
    eventually(lambda: nocodb_shows(lab, rows), 60)
    assert demo.manual(lab) == demo.MANUAL
    assert named(lab, "swarmkeep_restoring") == []
    # The archiver may just be at work.
    eventually(lambda: leftovers(lab) == "", 60)
    words = shlex.join(["grep", "-rl", "AGE-SECRET-KEY", "/var/backups", "/var/log", "/etc"])
    assert lab.exec("db1", "sh", "-c", f"{words}; true").stdout == b""
