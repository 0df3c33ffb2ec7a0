"""Pure: what we expect, what the bucket holds, and the time -> checks. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One verdict. `detail` says what was found, `hint` what to do if it failed."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
