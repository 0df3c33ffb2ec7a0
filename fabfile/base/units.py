"""Durations, sizes and cron schedules as people write them: read, checked, written back."""

from __future__ import annotations

import re

# Up to 15 digits: enough for anything real, and far from int()'s and float()'s own limits.
_DURATION = re.compile(r"(\d{1,15})\s*(s|m|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)?", re.ASCII)
_BYTES = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# crontab(5): name, lowest, highest value, and the words that stand for lowest, lowest + 1, ...
_CRON_FIELDS = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS), ("day of week", 0, 7, _DAYS),
)  # fmt: skip
_CRON_WORDS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly")
_CRON_PART = re.compile(r"(?:\*|(\w{1,3})(?:-(\w{1,3}))?)(?:/(\d{1,3}))?", re.ASCII)


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
    if round(seconds, 1) < 10:
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
        if round(amount, 1) < 2**10:
            return f"{amount:.1f} {unit}"
    return f"{amount / 2**10:.1f} TiB"


def check_cron(text: str) -> str:
    """Given five cron fields or a word such as "@daily", return them with single spaces.

    ValueError says what is wrong. cron itself ignores a whole file with one bad
    line, and tells nobody but the system log.
    """
    fields = text.split()
    if len(fields) == 1 and fields[0] in _CRON_WORDS:
        return fields[0]
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError("want five cron fields such as '15 2 * * *', or '@daily'")
    for field, (name, low, high, words) in zip(fields, _CRON_FIELDS, strict=True):
        for part in field.split(","):
            match = _CRON_PART.fullmatch(part)
            if match is None:
                raise ValueError(f"{part!r} is not a cron {name}")
            first, last = (_cron_value(word, low, words) for word in match.group(1, 2))
            if any(number is not None and not low <= number <= high for number in (first, last)):
                raise ValueError(f"{part!r} is not a cron {name}: want {low} to {high}")
            if (first is not None and last is not None and first > last) or match[3] == "0":
                raise ValueError(f"{part!r} is not a cron {name}: it is empty")
            if match[3] and first is not None and last is None:
                raise ValueError(f"{part!r} is not a cron {name}: a step needs a range or *")
    return " ".join(fields)


def _cron_value(word: str | None, low: int, words: tuple[str, ...]) -> int | None:
    """The number a field's word stands for; -1 for one that stands for nothing."""
    if word is None:
        return None
    if word.isdecimal():
        return int(word)
    return low + words.index(word.lower()) if word.lower() in words else -1
