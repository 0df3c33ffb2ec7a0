"""inv backup.evidence: what is in it, and that two runs can be compared."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from invoke.collection import Collection

from fabfile.commands import evidence as command
from fabfile.config import hosts_file
from fabfile.monitoring.evidence import collect, digest
from fabfile.s3.bucket_settings import Settings
from tests.unit.command_line import runner
from tests.unit.s3_server import write_hosts

NOW = datetime.now(UTC).replace(microsecond=0)
ENTRY = {"time": f"{NOW - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}", "command": "deploy-db"}


@pytest.fixture
def server(server, monkeypatch, tmp_path):
    monkeypatch.setenv("SWARMKEEP_HOSTS", str(write_hosts(tmp_path, server.url)))
    for day in (1, 2, 100):
        key = server.put(NOW - timedelta(days=day))
        if day == 2:
            drill = {"format": 1, "outcome": "failed", "finished": "2026-11-20T03:00:00Z",
                     "seconds": 8, "reason": "rows differ"}  # fmt: skip
            server.put_object(key.replace("manifest", "drill"), json.dumps(drill).encode())
    server.put(NOW - timedelta(days=3), without=("dump",))
    return server


@pytest.fixture
def found(server, tmp_path):
    from fabfile.backup.bucket import Bucket

    inventory = hosts_file.load(tmp_path / "hosts.yaml")
    bucket = Bucket(inventory.backup)

    def run(audit=(ENTRY,), days=90):
        since = NOW - timedelta(days=days)
        return collect(inventory, bucket, Settings(exists=True), audit, since, NOW)

    return run


def test_backups_and_drills_of_the_time_asked_for(found):
    said = found()
    assert [one["proven"] for one in said["backups"]] == ["landed", "failed drill", "complete"]
    assert said["backups"][0]["flaw"].endswith("is missing")
    newest = said["backups"][-1]
    assert len(newest["objects"]["dump"]["sha256"]) == 64
    assert (newest["rows"], newest["tables"]) == (4, 2)
    assert [(d["kind"], d["ok"], d["reason"]) for d in said["drills"]] == [
        ("restored", False, "rows differ")
    ]
    assert len(found(days=200)["backups"]) == 4


def test_who_may_delete_and_how_it_is_kept(found):
    said = found()
    assert said["deletion"]["printed_policies_allow"] == ["pruner", "rekeyer"]
    assert said["retention"]["daily"] == 7
    assert said["encryption"] == {
        "asked_for": None,
        "bucket_default": None,
        "kms_key_id": None,
        "recipients": [],
        "manifest": "clear",
    }


def test_the_same_twice_has_the_same_sums_and_each_part_its_own(found):
    first, second = found(), found()
    assert first["sha256"] == second["sha256"]
    other = found(audit=(ENTRY, {**ENTRY, "command": "recover"}))
    changed = {name for name in first["sha256"] if first["sha256"][name] != other["sha256"][name]}
    assert changed == {"audit", "all"}
    assert first["sha256"]["backups"] == digest(first["backups"])


def test_entries_of_other_times_are_left_out(found):
    old = {**ENTRY, "time": "2020-01-01T00:00:00Z"}
    assert found(audit=(old, ENTRY))["audit"] == [ENTRY]
    assert found(audit=None)["audit"] is None


def test_the_command_says_what_it_lacks(server, capsys):
    inv = runner(Collection(command.evidence), capsys)
    code, out, err = inv("evidence", "--json")
    assert code == 1
    said = json.loads(out)
    assert said["audit"] is None
    assert len(said["backups"]) == 3
    assert "lacks the audit log" in err
    code, out, _ = inv("evidence")
    assert "backups: 3, 2 of them complete" in out
    assert "drills: 0 restored" in out


@pytest.mark.parametrize("since", ["", "x", "2026-13-01", "90", "99999999999999d"])
def test_bad_times_are_refused(server, capsys, since):
    inv = runner(Collection(command.evidence), capsys)
    assert inv("evidence", "--since", since)[0] == 2
