"""Who runs a command, from where, and from which commit of the repository."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Origin:
    """`who` is user@machine; `commit` a short hash, with -dirty where files differ, or ""."""

    who: str
    commit: str


def find() -> Origin:
    """Where this command comes from."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = "unknown"
    return Origin(f"{user}@{socket.gethostname()}", _commit())


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            [*command, "--exclude", "*"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def process() -> str:
    """What identifies this process on its machine: boot, process namespace, number, start time.

    "" where there is no /proc.
    """
    try:
        return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}"
    except OSError:
        return ""


def has_ended(mark: str) -> bool:
    """Whether the process of a `process()` mark ran here and is gone. False where unknown."""
    machine, _, rest = mark.rpartition(":")
    machine, _, number = machine.rpartition(":")
    try:
        if not machine or machine != _machine():
            return False
    except OSError:
        return False
    try:
        return _started(int(number)) != rest
    except FileNotFoundError:
        return _is_gone(int(number))
    except (OSError, ValueError):
        return False


def _is_gone(number: int) -> bool:
    """With hidepid, /proc does not show other people's processes: so the kernel is asked."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's; or no number of a process
        pass
    return False


def _machine() -> str:
    """One boot of one machine, and one namespace: two containers on it number on their own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def _started(number: int) -> str:
    """When a process started, in clock ticks since boot: proc(5), field 22 of stat."""
    stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    return stat.rpartition(")")[2].split()[19]
