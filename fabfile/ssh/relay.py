"""The output of a command on one host becomes the input of a command on another.

The hosts need not reach each other: the bytes go through this machine, a block at a time.
"""

from __future__ import annotations

import queue
import shlex
import threading
from collections.abc import Iterator

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, succeeded

_LINE = 60_000
"""Characters of base64 in a line: some of them on the way at a time are all the memory it takes."""
_LINES = 64
_LOOK_SECONDS = 0.5


class _EndedError(SwarmkeepError):
    """Whoever reads has ended."""


def relay(source: Host, giver: str, target: Host, taker: str, what: str, *, timeout: float) -> str:
    """Run a script on one host and feed its output to a script on another; return what that says.

    Both are of bash, in which a failure anywhere in a pipe counts. `timeout` is the number of
    seconds of silence after which a host is given up.
    Raises SwarmkeepError "<host>: <what> failed: <why>" if either fails; then what was taken is
    not whole.
    """
    if source.entry == target.entry:
        both = f"{{\n{giver}\n}} | {{\n{taker}\n}}"
        return succeeded(target.run(Command(_bash(both)), timeout=timeout), what).stdout
    lines: queue.Queue[bytes | None] = queue.Queue(_LINES)
    over = threading.Event()
    errors: list[SwarmkeepError] = []

    def put(line: bytes | None) -> None:
        while True:
            try:
                lines.put(line, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                if over.is_set():
                    raise _EndedError(f"{target.name}: has ended") from None

    def give() -> None:
        script = _bash(f"{{\n{giver}\n}} | base64 -w {_LINE}")
        try:
            result = source.feed(
                Command(script), (), timeout=timeout, keep=False,
                on_line=lambda line: put(line.encode() + b"\n"),
            )  # fmt: skip
            succeeded(result, what)
        except _EndedError:
            pass
        except SwarmkeepError as error:
            errors.append(error)
            # What has come until now must not be taken for all: no base64, so it fails there.
            _put_if_read(lines, over, b"!\n")
        finally:
            _put_if_read(lines, over, None)

    giving = threading.Thread(target=give, daemon=True)
    giving.start()
    try:
        script = _bash(f"base64 -d | {{\n{taker}\n}}")
        taken = target.feed(Command(script), _until_none(lines, over), timeout=timeout)
    finally:
        over.set()
        giving.join(timeout)
    if errors:
        raise errors[0]
    return succeeded(taken, what).stdout


def _until_none(lines: queue.Queue[bytes | None], over: threading.Event) -> Iterator[bytes]:
    while True:
        try:
            line = lines.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if over.is_set():
                return
            continue
        if line is None:
            return
        yield line


def _put_if_read(
    lines: queue.Queue[bytes | None], over: threading.Event, line: bytes | None
) -> None:
    while not over.is_set():
        try:
            lines.put(line, timeout=_LOOK_SECONDS)
            return
        except queue.Full:
            continue


def _bash(script: str) -> str:
    return "exec bash -c " + shlex.quote("set -o pipefail\n" + script)
