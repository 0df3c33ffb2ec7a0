"""The same deploy by Swarmkeep, Ansible, pyinfra and plain ssh, side by side on a lab.

Run as `make bench-deploy`. It makes a lab of its own (`bench`) and removes it again. Exit
code 1 if a goal is missed. What is timed and how to read it: bench/README.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.deploy import cluster, folder, table
from bench.deploy.delay_proxy import proxies
from bench.deploy.table import AGAIN, AGAIN_FAR, FIRST, FIRST_FAR
from bench.deploy.tools import PEERS, SWARMKEEP, TOOLS, Tool
from bench.progress import in_turn
from fabfile.base.errors import SwarmkeepError
from lab import cluster as labs
from lab.model import NODES, Lab, directory_of

ROUND_TRIP = 0.050
"""Seconds that the far rows add."""


class Bench:
    """One benchmark: the lab, a folder for near and one for far, the times so far."""

    def __init__(self, lab: Lab, near: Path, far: Path) -> None:
        self.lab = lab
        self.near = near
        self.far = far
        self.times: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.round_trips = ""

    def measure(self, tool: Tool, firsts: int, repetitions: int) -> None:
        """All rows of one tool."""
        for number in in_turn(range(firsts), f"{tool.name}, first runs"):
            self._first(tool, FIRST_FAR, self.far)
            self._first(tool, FIRST, self.near)
            if number < firsts - 1:
                cluster.settle(self.lab)
        before = cluster.settle(self.lab)
        cluster.calm()
        for row, where in ((AGAIN, self.near), (AGAIN_FAR, self.far)):
            # Once untimed: caches of files and of bytecode are warm for everybody.
            tool.run(where, self.lab, unchanged=True)
            for _ in in_turn(range(repetitions), f"{tool.name}, {row}"):
                self._note(tool, row, where, unchanged=True)
        if cluster.settle(self.lab) != before:
            raise SwarmkeepError(f"{tool.name}: its unchanged runs restarted a container")

    def _first(self, tool: Tool, row: str, where: Path) -> None:
        cluster.empty(self.lab)
        self._note(tool, row, where, unchanged=False)

    def _note(self, tool: Tool, row: str, where: Path, *, unchanged: bool) -> None:
        seconds, output = tool.run(where, self.lab, unchanged=unchanged)
        self.times[row, tool.name].append(seconds)
        print(f"  {tool.name:10} {row:18} {seconds:6.2f} s", flush=True)
        found = re.findall(r"round trips: (\d+)", output)
        if found and unchanged:
            self.round_trips = " + ".join(found)


def run(lab: Lab, firsts: int, repetitions: int) -> int:
    """Measure everything, print the table and the goals; return the exit code."""
    cluster.prepare(lab)
    with tempfile.TemporaryDirectory(prefix="swarmkeep-bench-") as name:
        near, far = Path(name, "near"), Path(name, "far")
        targets = {node: (lab.addresses[node], folder.SSH_PORT) for node in NODES}
        with proxies(targets, ROUND_TRIP) as ports:
            for where in (near, far):
                where.mkdir(mode=0o700)
            folder.write(near, lab, targets)
            folder.write(far, lab, {node: ("127.0.0.1", port) for node, port in ports.items()})
            bench = Bench(lab, near, far)
            for tool in TOOLS:
                bench.measure(tool, firsts, repetitions)
    cluster.empty(lab)
    print(
        f"\nmedians of {repetitions} runs (first runs: {firsts})\n\n{table.render(bench.times)}\n"
    )
    if bench.round_trips:
        print(f"{SWARMKEEP.name}: {bench.round_trips} round trips, deploy and backup.install\n")
    verdicts = [goal.verdict(bench.times) for goal in table.GOALS]
    for _, line in verdicts:
        print(line)
    return int(not all(good for good, _ in verdicts))


def own_lab(name: str) -> Lab:
    """Bring up a lab that only benchmarks use: they empty it again and again.

    Raises SwarmkeepError for a lab that was made by somebody else.
    """
    mark = directory_of(name) / "of-the-benchmark"
    if mark.parent.exists() and not mark.exists():
        raise SwarmkeepError(f"lab {name} is not the benchmark's own: name another with --lab")
    mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark.touch()
    return labs.up(name, say=print)


def main() -> int:
    """Read the flags, make the lab, measure, remove the lab."""
    parser = argparse.ArgumentParser(prog="python -m bench.deploy")
    parser.add_argument("--lab", default="bench", help="name of the lab to make (default: bench)")
    parser.add_argument("--keep-lab", action="store_true", help="leave the lab up at the end")
    parser.add_argument("--runs", type=int, default=5, help="unchanged runs of each tool")
    parser.add_argument("--first-runs", type=int, default=1, help="first runs of each tool")
    flags = parser.parse_args()
    if not (PEERS / "pyinfra").exists():
        parser.error(f"{PEERS.parent} is missing: run it as make bench-deploy")
    try:
        lab = own_lab(flags.lab)
        try:
            return run(lab, flags.first_runs, flags.runs)
        finally:
            if not flags.keep_lab:
                labs.down(flags.lab, say=print)
    except SwarmkeepError as error:
        print(f"error: {error.message}", *error.details, sep="\n  ", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
