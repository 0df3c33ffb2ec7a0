"""The files of scripts/ in this repository: their text, and templates filled in."""

from __future__ import annotations

from functools import cache
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@cache
def script_text(name: str) -> bytes:
    """The content of a file, by its path in scripts/."""
    return (SCRIPTS / name).read_bytes()


def from_template(name: str, **values: str) -> bytes:
    """A file in which each @NAME@ is replaced by a value."""
    text = script_text(name).decode()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text.encode()
