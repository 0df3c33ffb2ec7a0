"""How far a benchmark is, on a terminal: steps done, of how many, and the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def in_turn(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, with a bar on stderr meanwhile; nothing is shown on a pipe.

    `total`: how many they are, where they have no length. Lines that are printed meanwhile appear
    above the bar. So both stdout and stderr must be the terminal, or those lines would go there.
    """
    shown = sys.stdout.isatty() and sys.stderr.isatty()
    console = Console(stderr=True)
    yield from track(items, what, total, console=console, transient=True, disable=not shown)
