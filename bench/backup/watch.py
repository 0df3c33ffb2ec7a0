"""Watching a command that runs in a lab node: seconds, memory of its processes, disk.

The node is a container of this machine, so its processes and files are seen from here. The
command's processes are known by a mark in their environment, which children inherit.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lab import docker

MARK = "SWARMKEEP_BENCH"
INTERVAL = 0.05
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Watched:
    """What a run took. Bytes and seconds; `disk` is the most the folder grew by at any moment."""

    exit_code: int
    output: str
    seconds: float
    memory: int
    disk: int


def run(container: str, folder: str, *argv: str) -> Watched:
    """Run a command in a node and watch it; any exit code is returned."""
    mark = f"{MARK}={secrets.token_hex(8)}"
    node = docker.inspect("container", container)
    assert node
    place = Path(f"/proc/{node['State']['Pid']}/root{folder}")
    before = used(place)
    memory, disk = [0], [0]
    done = threading.Event()

    def look() -> None:
        while not done.wait(INTERVAL):
            memory.append(resident(mark.encode()))
            disk.append(used(place) - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    start = time.perf_counter()
    try:
        ran = subprocess.run(
            ["docker", "exec", "-e", mark, container, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    return Watched(ran.returncode, ran.stdout, seconds, max(memory), max(disk))


def resident(mark: bytes) -> int:
    """Resident bytes of all processes that carry a mark; what they share counts for each."""
    total = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            # (The docker command of this machine has it as an argument only.)
            if mark in (process / "environ").read_bytes().split(b"\0"):
                total += int((process / "statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            continue  # it has ended
    return total


def used(folder: Path) -> int:
    """Bytes of disk that a folder's files take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue  # removed since it was listed
    return total
