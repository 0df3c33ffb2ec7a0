"""Medians and ratios of the timed runs, and whether they reach the goals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.deploy.tools import ANSIBLE, PYINFRA, SSH, SWARMKEEP, TOOLS

Times = Mapping[tuple[str, str], Sequence[float]]
"""(row, tool's name) -> seconds of each run."""

FIRST, FIRST_FAR = "first run", "first run, +50 ms"
AGAIN, AGAIN_FAR = "unchanged", "unchanged, +50 ms"
ROWS = (FIRST, FIRST_FAR, AGAIN, AGAIN_FAR)


@dataclass(frozen=True)
class Goal:
    """In a row of the table, `peer` must take at least `factor` times as long as Swarmkeep."""

    row: str
    peer: str
    factor: float

    def verdict(self, times: Times) -> tuple[bool, str]:
        """Whether it is reached, and a line that says so."""
        ratio = median(times, self.row, self.peer) / median(times, self.row, SWARMKEEP.name)
        good = ratio >= self.factor
        if self.factor < 1:
            text = f"at most {1 / self.factor:g} times {self.peer}: {1 / ratio:.2f}"
        else:
            text = f"at least {self.factor:g} times faster than {self.peer}: {ratio:.2f}"
        return good, f"{'reached' if good else 'MISSED '}  {self.row}: {text}"


GOALS = (
    Goal(AGAIN, ANSIBLE.name, 6),
    Goal(AGAIN, PYINFRA.name, 1),
    Goal(AGAIN, SSH.name, 0.5),
    Goal(AGAIN_FAR, ANSIBLE.name, 5),
    Goal(AGAIN_FAR, PYINFRA.name, 1.5),
    Goal(AGAIN_FAR, SSH.name, 0.5),
)


def median(times: Times, row: str, tool: str) -> float:
    """The median of a cell, in seconds."""
    return statistics.median(times[row, tool])


def render(times: Times) -> str:
    """The table: seconds, and how many times as long as Swarmkeep takes."""
    head = "".join(f"{tool.name:>18}" for tool in TOOLS)
    lines = [f"{'':20}{head}"]
    for row in ROWS:
        ours = median(times, row, SWARMKEEP.name)
        cells = []
        for tool in TOOLS:
            seconds = median(times, row, tool.name)
            ratio = "" if tool is SWARMKEEP else f" ({seconds / ours:.1f}x)"
            cells.append(f"{f'{seconds:.2f} s{ratio}':>18}")
        lines.append(f"{row:20}{''.join(cells)}")
    waits = "".join(f"{'yes' if tool.waits else 'no':>18}" for tool in TOOLS)
    lines.append(f"{'waits until it runs':20}{waits}")
    return "\n".join(lines)
