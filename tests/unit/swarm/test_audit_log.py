"""The audit log: lines as they are written by the real sh, and read again."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest
from invoke.collection import Collection
from invoke.program import Program

from fabfile.commands import locking
from fabfile.swarm import audit_log
from fabfile.swarm.operator import Origin

ALICE = Origin("alice@laptop", "abc-dirty")


@pytest.fixture
def log(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(audit_log, "path", lambda project: str(tmp_path / "audit.jsonl"))
    return tmp_path / "audit.jsonl"


def write(line) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", audit_log.append_script(line, "")], capture_output=True, text=True, check=False
    )


def test_lines_are_appended_with_the_managers_time_for_root_only(log):
    hostile = 'it\'s "broken"\n$(touch pwned) %s \\ \u00e9'
    write(audit_log.entry(ALICE, "deploy", "failed", stack="s", error=hostile, seconds=1.23))
    write(audit_log.entry(ALICE, "deploy", "ok", stack="s", changes=["node x: role=db"], release=3))
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert first["error"] == hostile
    assert (first["outcome"], first["seconds"], first["who"]) == ("failed", 1.2, "alice@laptop")
    assert second == {
        "time": second["time"],
        "command": "deploy",
        "outcome": "ok",
        "who": "alice@laptop",
        "stack": "s",
        "release": 3,
        "changes": ["node x: role=db"],
        "commit": "abc-dirty",
    }
    assert second["time"].endswith("Z")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_log_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_log, "path", lambda project: str(tmp_path / "no" / "folder"))
    done = subprocess.run(
        ["sh", "-c", audit_log.append_script(audit_log.entry(ALICE, "x", "ok"), "") + "echo on"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "on\n"


def test_entries_of_several_managers_are_put_in_order():
    log = audit_log.parse(
        [("m1", '{"time": "2026-01-01T00:00:02Z", "a": 1}\n'),
         ("m2", '{"time": "2026-01-01T00:00:01Z", "a": 2}\n')]
    )  # fmt: skip
    assert [(e["manager"], e["a"]) for e in log.entries] == [("m2", 2), ("m1", 1)]
    assert not log.damaged


GOOD = '{"time": "2026-01-01T00:00:00Z", "command": "deploy", "error": "a\u2028b"}'


@pytest.mark.parametrize("line", ["not json", "[]", '"text"', '{"no": "time"}', GOOD[:30], "\0\0"])
def test_a_damaged_line_hides_no_other(line):
    log = audit_log.parse([("m1", f"{GOOD}\n{line}\n{GOOD}\n"), ("m2", f"{GOOD}\n\n")])
    assert [e["manager"] for e in log.entries] == ["m1", "m1", "m2"]
    assert log.damaged == {"m1": 1}


def test_damaged_lines_are_mentioned_beside_good_json(tmp_path, monkeypatch, capsys):
    damaged = audit_log.parse([("m1", f"{GOOD}\n{GOOD[:9]}\n{{\n"), ("m2", "x\n")])
    monkeypatch.setattr(audit_log, "read", lambda fleet, lines: damaged)
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(
        "hosts: {m1: {address: 10.0.0.1, swarm: manager, role: db}}\ns3_bucket_name: a-bucket\n"
    )
    words = ["inv", "audit", "--json", "--hosts", str(hosts)]
    Program(namespace=Collection(locking.audit_log)).run(words, exit=False)
    shown = capsys.readouterr()
    assert [entry["manager"] for entry in json.loads(shown.out)] == ["m1"]
    assert shown.err == (
        f"warning: m1: 2 lines are damaged and left out; see {audit_log.path('')} there\n"
        f"warning: m2: 1 line is damaged and left out; see {audit_log.path('')} there\n"
    )
