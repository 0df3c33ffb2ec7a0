"""The docker command of this machine's engine. Argument lists only, no shell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

from fabfile.base.errors import SwarmkeepError
from lab import namespaces

LAST_LINES = 12

OnLine = Callable[[str], None]


def attempt(*argv: str, input: bytes | None = None, timeout: float = 60) -> CompletedProcess[bytes]:
    """Run `docker ...`; any exit code is returned. Running out of time is an error.

    `timeout` is in seconds.
    """
    try:
        return subprocess.run(
            ["docker", *argv],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _no_end(argv, timeout) from None


def run(*argv: str, input: bytes | None = None, timeout: float = 60) -> str:
    """Run `docker ...` and return its output; SwarmkeepError with its last lines if it fails."""
    result = attempt(*argv, input=input, timeout=timeout)
    if result.returncode:
        raise failure(
            argv, result.returncode, (result.stderr or result.stdout).decode("utf-8", "replace")
        )
    return result.stdout.decode("utf-8", "replace")


def exec(
    container: str, *argv: str, input: bytes | None = None, timeout: float = 120
) -> CompletedProcess[bytes]:
    """Run a command as root in a container; any exit code is returned."""
    # A service that it starts belongs to the container, also for its cgroups.
    entered = None if argv[0] == "service" else namespaces.of(container)
    if entered is None:
        flags = ["-i"] if input is not None else []
        return attempt("exec", *flags, container, *argv, input=input, timeout=timeout)
    try:
        return entered.run(*argv, input=input, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise _no_end(("exec", container, *argv), timeout) from None


def inside(container: str, *argv: str, input: bytes | None = None, timeout: float = 120) -> str:
    """Run a command as root in a container and return its output; SwarmkeepError if it fails."""
    result = exec(container, *argv, input=input, timeout=timeout)
    if result.returncode:
        text = (result.stderr or result.stdout).decode("utf-8", "replace")
        raise failure((container, *argv), result.returncode, text)
    return result.stdout.decode("utf-8", "replace")


def stream(*argv: str, on_line: OnLine, environment: dict[str, str] | None = None) -> None:
    """Run any long command, handing each line of its output on as it comes.

    SwarmkeepError with the last lines if it fails.
    """
    last: list[str] = []
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text := line.strip():
                last = [*last, text][-LAST_LINES:]
                on_line(text)
    if process.returncode:
        raise failure(argv, process.returncode, "\n".join(last))


def pipe(source: tuple[str, ...], target: tuple[str, ...]) -> None:
    """Run `docker SOURCE | docker TARGET`; SwarmkeepError if either fails."""
    with subprocess.Popen(
        ["docker", *source], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as giver:
        taker = subprocess.run(
            ["docker", *target], stdin=giver.stdout, capture_output=True, check=False
        )
        # Else a taker that ended early would leave the giver waiting for a reader for ever.
        assert giver.stdout is not None
        giver.stdout.close()
    if taker.returncode:
        raise failure(target, taker.returncode, taker.stderr.decode("utf-8", "replace"))
    if giver.returncode:
        raise failure(source, giver.returncode, "")


def inspect(kind: str, name: str) -> dict[str, Any] | None:
    """What `docker KIND inspect` knows about a thing; None if there is none."""
    result = attempt(kind, "inspect", name)
    if result.returncode:
        return None
    found: dict[str, Any] = json.loads(result.stdout)[0]
    return found


def ids(kind: str, label: str) -> list[str]:
    """Given "container", "network" or "volume" and a label, return what carries that label."""
    flags = {"container": ["ls", "--all"], "network": ["ls"], "volume": ["ls"]}[kind]
    return run(kind, *flags, "--quiet", "--filter", f"label={label}").split()


def failure(argv: tuple[str, ...], code: int, text: str) -> SwarmkeepError:
    """The error for a command that failed, with the last lines it said."""
    lines = tuple(line for line in text.splitlines() if line.strip())[-LAST_LINES:]
    return SwarmkeepError(f"'{shown(argv)}' failed with exit code {code}", details=lines)


def _no_end(argv: tuple[str, ...], timeout: float) -> SwarmkeepError:
    return SwarmkeepError(
        f"docker {argv[0]}: no end after {timeout:.0f} s ({shown(argv)})",
        hint="look at the engine: docker info",
    )


def shown(argv: tuple[str, ...]) -> str:
    """A command as an error shows it: short. (No argument of the lab's commands is a secret.)"""
    line = " ".join(argv)
    return line if len(line) <= 100 else line[:97] + "..."
