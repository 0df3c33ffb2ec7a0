"""Base backups and WAL read over real HTTP."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from fabfile.backup.bucket import Bucket
from fabfile.backup.verdict import look
from fabfile.commands import prune_wal
from fabfile.config import hosts_file
from fabfile.monitoring.evidence import collect
from fabfile.s3.bucket_settings import Settings
from fabfile.wal.archive import WalArchive
from fabfile.wal.chain import parse_base_manifest
from fabfile.wal.object_keys import stamp
from tests.unit.s3_server import BUCKET, write_hosts
from tests.unit.wal.test_chain import MANIFEST, at, named

FOLDER = "wal/7/"


@pytest.fixture
def inventory(server, tmp_path):
    inventory = hosts_file.load(write_hosts(tmp_path, server.url, pitr=True, files=False))
    return replace(inventory)


def put_segment(server, number: int) -> None:
    body = f"segment {number}".encode()
    name = f"{named(number)}_{stamp(at(number))}_{hashlib.md5(body).hexdigest()}.gz"
    server.put_object(f"{FOLDER}{named(number)[:16]}/{name}", body)


def put_base(
    server, number: int, *, stored: int = 10, project: str = "", parent: int | None = None
) -> None:
    start = f"{FOLDER}base_{stamp(at(number))}"
    changes = {"segment": named(number), "finished": stamp(at(number)), "project": {"id": project}}
    if parent is not None:
        changes |= {"format": 2, "parent": stamp(at(parent))}
    server.put_object(f"{start}.tar.gz", b"x" * stored)
    server.put_object(f"{start}.json", json.dumps(MANIFEST | changes).encode())


def test_an_incremental_base_backup_is_as_good_as_what_it_adds_to(server, inventory):
    for number in range(3, 50):
        put_segment(server, number)
    put_base(server, 5)
    put_base(server, 10, parent=5)
    put_base(server, 20, parent=10)
    found = WalArchive(Bucket(inventory.backup), "").history("7")
    assert [base.flaw for base in found.bases] == ["", "", ""]
    assert [base.parent for base in found.bases] == [stamp(at(10)), stamp(at(5)), ""]
    put_base(server, 10, parent=5, stored=3)
    found = WalArchive(Bucket(inventory.backup), "").history("7")
    assert "its object has 3 bytes" in found.bases[0].flaw
    assert found.newest_base == found.bases[2]
    server.client.delete_object(Bucket=BUCKET, Key=f"{FOLDER}base_{stamp(at(10))}.json")
    found = WalArchive(Bucket(inventory.backup), "").history("7")
    assert found.bases[0].flaw.endswith("is not in the bucket")


def test_the_evidence_says_from_when_to_when(server, inventory):
    for number in range(3, 50):
        put_segment(server, number)
    put_base(server, 5)
    put_base(server, 10, parent=5)
    bucket = Bucket(inventory.backup)
    [said] = collect(inventory, bucket, Settings(exists=True), (), at(0), at(40))["point_in_time"]
    assert said["cluster"] == "7"
    assert said["windows"] == [{"start": at(5).isoformat(), "end": at(40).isoformat()}]
    assert [base["parent"] for base in said["base_backups"]] == [stamp(at(5)), None]
    assert said["replayed"] is None
    off = replace(inventory, backup=replace(inventory.backup, pitr=False))
    found = collect(off, bucket, Settings(exists=True), (), at(0), at(40))
    assert found["point_in_time"] is None


@pytest.mark.parametrize("changes", [{"format": 2}, {"parent": "20261126T100000Z"}, {"format": 3}])
def test_a_manifest_that_leaves_open_whether_it_is_incremental_is_refused(changes):
    with pytest.raises(ValueError, match="its manifest"):
        parse_base_manifest(json.dumps(MANIFEST | changes), stamp(at(5)), MANIFEST["cluster"])


def test_everything_of_a_cluster(server, inventory):
    for number in range(3, 1100):  # more than a page
        put_segment(server, number)
    put_base(server, 5)
    put_base(server, 300)
    put_base(server, 400, stored=3)
    put_base(server, 500, project="another")
    server.put_object(f"{FOLDER}base_{stamp(at(600))}.tar.gz", b"being uploaded")
    server.put_object(f"{FOLDER}mark_before_{stamp(at(20))}.json", b"{}")
    server.put_object(f"{FOLDER}mark_before_{stamp(at(30))}.json", b"{}")
    server.put_object("wal/8/x", b"")
    server.put_object("wal/no-cluster/x", b"")
    archive = WalArchive(Bucket(inventory.backup), "ours")
    assert archive.clusters() == ["7", "8"]
    history = archive.history("7")
    assert [base.stamp for base in history.bases] == [stamp(at(n)) for n in (400, 300, 5)]
    assert history.bases[0].flaw == "its object has 3 bytes, its manifest says 10"
    assert history.newest_base is history.bases[1]
    # None before the oldest base backup is asked for.
    assert [segment.name for segment in history.segments] == [named(n) for n in range(5, 1100)]
    assert [mark.time for mark in history.marks] == [at(30), at(20)]
    [window] = history.windows()
    assert (window.start, window.end) == (at(5), at(1099))


def test_a_manifest_that_cannot_be_read_is_no_base_backup(server, inventory):
    put_base(server, 5)
    server.put_object(f"{FOLDER}base_{stamp(at(5))}.json", b"[]")
    [base] = WalArchive(Bucket(inventory.backup), "").history("7").bases
    assert base.flaw == "its manifest is of no known format"


def test_verify_fails_without_wal_and_says_how_far_one_can_go_with_it(server, inventory):
    when = at(40)
    server.put(when, cluster="7", expected_cluster="7")
    verdict = look(inventory, Bucket(inventory.backup), "nocodb")
    assert "wal" in {check.name for check in verdict.failed}
    put_base(server, 5)
    for number in range(5, 42):
        put_segment(server, number)
    verdict = look(inventory, Bucket(inventory.backup), "nocodb")
    assert {"wal", "chain", "base"} <= {check.name for check in verdict.checks}
    assert verdict.window is not None
    assert (verdict.window.start, verdict.window.end) == (at(5), at(41))
    assert verdict.loss_seconds == pytest.approx((verdict.now - at(41)).total_seconds())


def test_what_kms_encrypts_has_no_md5_to_compare(server, inventory):
    put_base(server, 5)
    put_segment(server, 5)
    name = f"{named(6)}_{stamp(at(6))}_{'0' * 32}.gz"
    server.put_object(f"{FOLDER}{named(6)[:16]}/{name}", b"its ETag is another")
    [window] = WalArchive(Bucket(inventory.backup), "").history("7").windows()
    assert window.end == at(5)
    encrypted = replace(inventory.backup, encryption="aws:kms")
    [window] = WalArchive(Bucket(encrypted), "").history("7").windows()
    assert window.end == at(6)


def test_another_projects_wal_is_not_pruned(server, inventory):
    server.put(at(40), cluster="9", expected_cluster="9")
    put_base(server, 5, project="another")
    for number in range(5, 42):
        put_segment(server, number)
    bucket = Bucket(inventory.backup, "ours")
    assert bucket.project_id == "ours"
    assert prune_wal.plan(inventory, bucket) == []
    put_base(server, 5, project="ours")
    [plan] = prune_wal.plan(inventory, bucket)
    assert len(plan.decision.segments) == 37
    assert plan.decision.reason == "of a former cluster, and older than the window"
