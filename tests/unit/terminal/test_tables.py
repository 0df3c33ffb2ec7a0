"""Checks and tables as text and as JSON."""

from __future__ import annotations

import json

import pytest

from fabfile.base.check import Check
from fabfile.terminal import tables

GOOD = Check("fresh", True, "made 7h ago", "never shown")
BAD = Check("size", False, "12 B, less than the 10.0 KiB", "look into it")


def test_checks_show_verdict_detail_and_the_next_step_of_failures_only():
    lines = tables.checks([GOOD, BAD]).splitlines()
    assert lines[2].split() == ["ok", "fresh", "made", "7h", "ago"]
    assert lines[3].split()[:3] == ["FAILED", "size", "12"]
    assert lines[4].strip() == "next: look into it"
    assert "never shown" not in tables.checks([GOOD, BAD])


def test_json_is_one_document_whose_ok_is_that_of_all_checks():
    document = json.loads(tables.checks_json([GOOD, BAD], bucket="b", requests=2))
    assert document == {
        "ok": False,
        "bucket": "b",
        "requests": 2,
        "checks": [
            {"name": "fresh", "ok": True, "detail": "made 7h ago", "hint": ""},
            {"name": "size", "ok": False, "detail": BAD.detail, "hint": "look into it"},
        ],
    }
    assert json.loads(tables.checks_json([GOOD]))["ok"] is True


def test_a_table_in_a_pipe_is_never_cut_or_wrapped():
    text = tables.table(["key", "size"], [["k" * 300, "1"]])
    assert "k" * 300 in text
    assert len(text.splitlines()) == 3


def test_no_line_ends_in_blanks():
    text = tables.table(["a", "b"], [["1", ""], ["2", "x"]])
    assert all(line == line.rstrip() for line in text.splitlines())


def test_markup_and_escape_sequences_from_outside_are_harmless():
    nasty = "[red]backup_[/]\x1b[2J\x07\u202e.gz"
    text = tables.table(["key"], [[tables.plain(nasty)]])
    assert "[red]backup_[/]" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def at(monkeypatch, columns: int) -> None:
    """Have output go to a terminal of this width."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


ENTRIES = [
    (
        ["2026-11-26T18:02:32Z", "ann@desk", "backup.install", "", "ok"],
        ["db1: /etc/cron.d/backup-pg", "db1: " + "word " * 30 + "end"],
    ),
    (["2026-11-26T18:03:32Z", "bob@laptop", "deploy", "dbstack", "failed"], ["error: it crashes"]),
]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_entries_have_whole_words_in_any_terminal(monkeypatch, columns):
    """Seen: at 80 columns the command was cut to "backup.insta..." and a cell took twenty lines."""
    at(monkeypatch, columns)
    text = tables.entries(ENTRIES)
    assert max(map(len, text.splitlines())) <= columns
    for words, notes in ENTRIES:
        for word in " ".join([*words, *notes]).split():
            assert word in text.split()
    below = [line for line in text.splitlines() if "cron.d" in line]
    assert below == ["    db1: /etc/cron.d/backup-pg"]


def test_entries_in_a_pipe_are_never_broken():
    lines = tables.entries(ENTRIES).splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["2026-11-26T18:02:32Z", "ann@desk", "backup.install", "ok"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_with_a_long_column_cuts_nothing_off(monkeypatch, columns):
    at(monkeypatch, columns)
    text = tables.table(
        ["when", "command", "what"], [["2026-11-26T18:02:32Z", "backup.install", "word " * 60]]
    )
    assert max(map(len, text.splitlines())) <= columns
    assert text.count("word") == 60
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    if columns >= 80:
        assert "2026-11-26T18:02:32Z" in text
        assert "backup.install" in text
