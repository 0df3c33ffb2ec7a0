"""upgrade-pg.sh as it is called and understood from here."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.ssh.remote_command import Result
from fabfile.upgrade import copy_script
from fabfile.upgrade.copy_script import Copy, Note, Version

LOG = "2026-11-22T02:15:01Z {} run=20261122T021500Z-7 {}"
NOTE = Note(
    Version("postgres:15-bookworm", 15, "pgdata"),
    Version("postgres:17-bookworm", 17, "pgdata_17"),
    "2026-11-22T02:15:00+00:00",
)


class FakeHost:
    """Says what the script would say; waits for "g" where a line is "wait"."""

    def __init__(self, lines: list[str], code: int = 0) -> None:
        self.name = "db1"
        self.entry = SimpleNamespace(role="db")
        self.inventory = SimpleNamespace(
            project="",
            postgres=SimpleNamespace(service="dbstack_root_db"),
            backup=SimpleNamespace(mode="host"),
        )
        self.lines, self.code, self.ran = lines, code, ""
        self.heard: list[bytes] = []
        self.left = threading.Event()

    def run(self, command, *, timeout, on_line):
        return self.feed(command, (), timeout=timeout, on_line=on_line)

    def feed(self, command, chunks, *, timeout, on_line):
        self.ran = command.script
        words = iter(chunks)
        for line in self.lines:
            if line == "wait":
                self.heard += iter(lambda: next(words, b"g"), b"g")
            elif line == "until the end":
                self.heard += words
            else:
                on_line(line)
        self.left.set()
        return Result("db1", self.code, "\n".join(self.lines), "")


def test_a_note_is_read_as_it_was_written_and_what_is_none_is_nothing():
    assert copy_script.parse_note(NOTE.to_text()) == NOTE
    assert "\n" not in NOTE.to_text()
    for text in ("", "{}", "[]", "null", '{"before": 1, "after": 2, "when": 3}', "x"):
        assert copy_script.parse_note(text) is None


def test_the_arguments_are_quoted():
    line = copy_script.arguments("copy", "img:17-x", volume="v", note='{"a": "b c"}')
    assert line == """copy --image img:17-x --volume v --note '{"a": "b c"}'"""
    assert copy_script.arguments("check", "a; rm") == "check --image 'a; rm'"


def test_what_is_said_beside_the_log_is_returned():
    said: list[str] = []
    host = FakeHost([LOG.format("INFO", "looking"), "written 1 2 3", LOG.format("WARNING", "odd")])
    assert copy_script.run(host, "written", said.append) == "written 1 2 3"
    assert said == ["looking", "warning: odd"]
    assert host.ran.endswith("exec /usr/local/bin/upgrade-pg.sh written 2>&1")


@pytest.mark.parametrize(
    ("code", "kind"), [(40, ConfigError), (42, CheckFailedError), (41, SwarmkeepError)]
)
def test_a_failure_has_the_scripts_reason_and_advice(code, kind):
    lines = [LOG.format("ERROR", "psql: no"), LOG.format("ERROR", "it is in the way; next: move")]
    with pytest.raises(kind) as caught:
        copy_script.run(FakeHost(lines, code), "check", lambda _line: None)
    assert caught.value.message == "db1: it is in the way"
    assert caught.value.hint == "move"
    assert caught.value.details == ("psql: no",)


def test_a_host_without_the_script_is_told_what_to_do():
    with pytest.raises(SwarmkeepError, match="not installed") as caught:
        copy_script.run(FakeHost([], 127), "note", lambda _line: None)
    assert caught.value.hint == "install it: inv backup.install"


def test_a_copy_goes_from_step_to_step_and_counts():
    host = FakeHost(["prepared", "wait", "ready 104 119 7", "until the end"])
    copy = Copy(host, "copy", lambda _line: None)
    copy.prepare()
    copy.copy()
    assert (copy.tables, copy.rows) == (104, 119)
    copy.hold()
    assert not host.left.is_set()
    copy.give_up()
    assert host.left.is_set()
    copy.end()


def test_a_script_that_fails_ends_each_step():
    error = LOG.format("ERROR", "the copy differs; next: report it")
    copy = Copy(FakeHost(["prepared", "wait", error], 42), "copy", lambda _line: None)
    copy.prepare()
    with pytest.raises(CheckFailedError, match="the copy differs"):
        copy.copy()
    with pytest.raises(CheckFailedError, match="the copy differs"):
        copy.hold()
    with pytest.raises(SwarmkeepError, match="ended without an answer"):
        Copy(FakeHost([]), "copy", lambda _line: None).prepare()
