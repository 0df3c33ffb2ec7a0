"""One thing that was checked, and the verdict: of a backup, a host, a bucket's settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One verdict. `detail` says what was found, `hint` what to do if it failed."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
