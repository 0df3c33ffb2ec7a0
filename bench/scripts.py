"""The node's scripts beside those of an earlier commit, on a small database: the lab's NocoDB.

Run as `make bench-scripts EARLIER=COMMIT` with a lab in which both stacks are deployed and the
backup is installed (`make demo`). Both are run in turn on the same nodes, so that what else the
machine does is in both; the medians of RUNS are compared.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import monotonic

from bench.progress import in_turn
from lab import docker
from lab.model import REPOSITORY, Lab

RUNS = 5
FOLDER = "/opt/earlier"
NEW = "/usr/local/bin"
JOBS = {
    "database": ("db1", "backup-pg.sh"),
    "attachments": ("app1", "backup-files.sh"),
    "drill": ("db1", "restore-pg.sh drill --database nocodb --latest"),
    "restore": ("db1", "restore-pg.sh restore --database nocodb --latest --into bench_{number}"),
}


def main(name: str, commit: str) -> int:
    """Measure and print. Returns 0 if no job has become slower."""
    lab = Lab.load(name)
    archive = ("git", "-C", str(REPOSITORY), "archive", commit, "scripts")
    scripts = subprocess.run(archive, capture_output=True, check=True).stdout
    for node in ("db1", "app1"):
        docker.inside(lab.container(node), "mkdir", "-p", FOLDER)
        unpack = ("tar", "xC", FOLDER, "--strip-components=1")
        docker.inside(lab.container(node), *unpack, input=scripts)
    worse = 0
    try:
        for job, (node, words) in JOBS.items():
            times: dict[str, list[float]] = {FOLDER: [], NEW: []}
            for number in in_turn(range(2 * RUNS), job):
                folder = (FOLDER, NEW)[number % 2]
                times[folder].append(_time(lab, node, f"{folder}/{words.format(number=number)}"))
            before, after = (median(times[folder]) for folder in (FOLDER, NEW))
            print(f"{job:12} {before:6.2f} s -> {after:6.2f} s   {after / before:.2f}", flush=True)
            worse += after > before
    finally:
        drop = "; ".join(f'DROP DATABASE IF EXISTS "bench_{n}"' for n in range(2 * RUNS))
        _psql(lab, drop)
        for node in ("db1", "app1"):
            docker.inside(lab.container(node), "rm", "-rf", FOLDER)
    return int(worse > 0)


def _time(lab: Lab, node: str, words: str) -> float:
    """Seconds that a script takes; it must be good. A second of its own: sets are named by it."""
    started = monotonic()
    docker.inside(lab.container(node), "sh", "-c", f"{words} 2>&1", timeout=600)
    return monotonic() - started


def _psql(lab: Lab, statements: str) -> None:
    label = "label=com.docker.swarm.service.name=dbstack_root_db"
    words = " ".join(f"-c {one!r}" for one in statements.split("; "))
    script = (
        f"docker exec $(docker ps -q --filter {label}) psql -XAtq -U nocodb -d postgres {words}"
    )
    docker.inside(lab.container("db1"), "sh", "-c", script)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:3]))
