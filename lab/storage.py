"""Where a lab's containers keep their data: in a Docker volume each, or in this machine's memory.

Memory is for tests, which throw their labs away: making and deleting files costs far less there
than on a disk. It survives a restart of a container and of the engine, not one of the machine.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from lab.model import LABEL, NODES, ROLE_LABEL, S3, Lab

SWITCH = "SWARMKEEP_LAB_IN_MEMORY"
"""The environment variable that has new containers keep their data in memory."""
MEMORY = Path("/dev/shm")  # noqa: S108 # a folder of the lab's own in there
GIGABYTES = 4
"""What a lab takes of memory at most, with its data and what runs in it."""
PATHS = {**dict.fromkeys(NODES, "/var/lib/docker"), S3: "/var/lib/ceph"}


def fits_in_memory(labs: int, mounts: str, meminfo: str, free: int) -> bool:
    """Whether so many labs have room for their data in memory, given the texts of /proc/mounts and
    /proc/meminfo, and how many bytes are free in MEMORY: a container may have 64 MB there.
    """
    kinds = {words[1]: words[2] for line in mounts.splitlines() if len(words := line.split()) > 2}
    available = next((line for line in meminfo.splitlines() if line.startswith("MemAvail")), "x 0")
    least = min(int(available.split()[1]) * 1024, free)
    return kinds.get(str(MEMORY)) == "tmpfs" and least >= labs * GIGABYTES * 10**9


def mount(lab: Lab, member: str) -> str:
    """The `--mount` of a member's new container, for which it makes an empty folder or volume."""
    path = PATHS[member]
    if not os.environ.get(SWITCH):
        labels = (f"{LABEL}={lab.name}", f"{ROLE_LABEL}={member}")
        return ",".join([f"type=volume,dst={path}", *(f"volume-label={label}" for label in labels)])
    source = folder(lab.name) / member
    # As with a volume: what a lost container had is not its successor's.
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    return f"type=bind,src={source},dst={path}"


def folder(name: str) -> Path:
    """A lab's folder in memory, which need not be there."""
    return MEMORY / "swarmkeep-lab" / name


def remove(name: str) -> None:
    """Remove what a lab has in memory, once its containers are gone."""
    if folder(name).exists():
        shutil.rmtree(folder(name))
        with suppress(OSError):  # another lab's is there
            folder(name).parent.rmdir()
