"""Waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE = 0.2  # seconds between two looks


def until(look: Callable[[], str], *, deadline: float) -> str:
    """Look until `look` returns "" (all is well) or `deadline` seconds are over.

    Returns "" or the last problem that `look` named.
    """
    end = time.monotonic() + deadline
    while True:
        problem = look()
        if not problem or time.monotonic() >= end:
            return problem
        time.sleep(PAUSE)
