"""A command that is started and not waited for, so that a test can cut it off in the middle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.model import Lab

ROOT = Path(__file__).parents[2]


def start(lab: Lab, *args: str, hosts: Path | None = None) -> subprocess.Popen[str]:
    """Start `inv ...` in a process group of its own, one that Ctrl-C ends as on a terminal."""
    return subprocess.Popen(
        # Started in the background, a test run ignores SIGINT and so would its children.
        ["env", "--default-signal=INT", sys.executable, "-m", "invoke", *args],
        cwd=ROOT,
        env=lab.environment() | ({"SWARMKEEP_HOSTS": str(hosts)} if hosts else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def read_until(run: subprocess.Popen[str], word: str) -> str:
    """Read a command's output up to the line with a word in it, and return it."""
    assert run.stdout
    seen = ""
    for line in run.stdout:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"{word!r} never came: {seen}{run.communicate()}")
