"""Durations and sizes as people write them ("26h", "10MiB"), and back."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)?")
_BYTES = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def parse_duration(text: str) -> int:
    """Given "90s", "26h" or "1d 2h", return seconds; ValueError for anything else."""
    squeezed = text.strip()
    parts = _DURATION.findall(squeezed)
    if not parts or _DURATION.sub("", squeezed).strip():
        raise ValueError("want a duration such as '90s', '26h' or '1d 2h'")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Given "512", "10MiB" or "1.5GB", return bytes; ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("want a size such as '10MiB' or '1.5GB'")
    return int(float(match[1]) * _BYTES[match[2] or "B"])


def format_duration(seconds: float) -> str:
    """Given seconds, return the two largest units that matter: "1d 2h", "3m 20s", "0.4s"."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def format_size(size: int) -> str:
    """Given bytes, return them in the binary unit that keeps the number short: "12.3 MiB"."""
    if size < 2**10:
        return f"{size} B"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 2**10
        if amount < 2**10:
            return f"{amount:.1f} {unit}"
    return f"{amount / 2**10:.1f} TiB"
