"""Whether a process has ended, seen from a machine that hides other people's processes."""

from __future__ import annotations

import os
import subprocess

import pytest

from fabfile.swarm import operator


@pytest.fixture
def hidden(monkeypatch) -> None:
    """/proc as with hidepid=2: of others it shows nothing."""

    def started(number: int) -> str:
        raise FileNotFoundError(number)

    monkeypatch.setattr(operator, "_started", started)


@pytest.fixture
def mark() -> str:
    return operator.process()


def refuse(_number: int, _signal: int) -> None:
    raise PermissionError


def test_a_living_process_that_proc_hides_has_not_ended(mark, hidden, monkeypatch):
    assert not operator.has_ended(mark)
    monkeypatch.setattr(os, "kill", refuse)
    assert not operator.has_ended(mark)


def test_a_process_that_is_gone_has_ended(mark, hidden):
    gone = subprocess.Popen(["true"])
    gone.wait()
    machine = mark.rsplit(":", 2)[0]
    assert operator.has_ended(f"{machine}:{gone.pid}:1")
    assert not operator.has_ended(f"{machine}:{10**30}:1")
