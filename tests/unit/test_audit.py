"""The audit log: lines as they are written by the real sh, and read again."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from fabfile import audit
from fabfile.errors import SwarmkeepError
from fabfile.origin import Origin

ALICE = Origin("alice@laptop", "abc-dirty")


@pytest.fixture
def log(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(audit, "PATH", str(tmp_path / "audit.jsonl"))
    return tmp_path / "audit.jsonl"


def write(line) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", audit.append_script(line)], capture_output=True, text=True, check=False
    )


def test_lines_are_appended_with_the_managers_time_for_root_only(log):
    hostile = 'it\'s "broken"\n$(touch pwned) %s \\ \u00e9'
    write(audit.entry(ALICE, "deploy", "failed", stack="s", error=hostile, seconds=1.23))
    write(audit.entry(ALICE, "deploy", "ok", stack="s", changes=["node x: role=db"], release=3))
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
    monkeypatch.setattr(audit, "PATH", str(tmp_path / "no" / "folder"))
    done = subprocess.run(
        ["sh", "-c", audit.append_script(audit.entry(ALICE, "x", "ok")) + "echo on"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "on\n"


def test_entries_of_several_managers_are_put_in_order():
    entries = audit.parse(
        [("m1", '{"time": "2026-01-01T00:00:02Z", "a": 1}\n'),
         ("m2", '{"time": "2026-01-01T00:00:01Z", "a": 2}\n')]
    )  # fmt: skip
    assert [(e["manager"], e["a"]) for e in entries] == [("m2", 2), ("m1", 1)]


@pytest.mark.parametrize("line", ["not json", "[]", '"text"', '{"no": "time"}'])
def test_foreign_line_is_named(line):
    with pytest.raises(SwarmkeepError, match=r"m1: .* holds a line that is not ours"):
        audit.parse([("m1", line)])
