"""Pure: what we expect, what the bucket holds, and the time -> checks. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from fabfile.units import format_duration, format_size

CLOCK_TOLERANCE = 300
"""Seconds by which the clocks of node, bucket and this machine may differ unnoticed."""
PREDECESSORS = 7
"""Earlier backups that the newest one's size is compared with."""
ENOUGH = 3
"""Fewer predecessors than this say nothing about what size is usual."""
SHRUNK_BELOW = 0.5
"""A backup below this part of its predecessors' median size is suspicious."""
LATE = 3600
"""Seconds from dump to upload that are worth a word."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOOK = "inv backup.logs shows what the last runs said, inv backup.run makes a backup now"


@dataclass(frozen=True)
class Check:
    """One verdict. `detail` says what was found, `hint` what to do if it failed."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Landed:
    """One backup in the bucket. Times are UTC, the size is in bytes.

    `timestamp` is the time in the key, `last_modified` when the bucket received it.
    `metadata` is None as long as nobody has asked for it.
    """

    key: str
    timestamp: datetime
    size: int
    last_modified: datetime
    etag: str = ""
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Expectations:
    """What a good backup is: its database, its greatest age in seconds, its least size in bytes."""

    database: str
    max_age: int
    min_size: int


@dataclass(frozen=True)
class Holding:
    """What the bucket holds at `place` (for messages).

    `backups` newest first, the first of them with its metadata; `future` those dated
    later than the clocks' tolerance allows; `others` a few keys that are no backups.
    """

    place: str
    backups: tuple[Landed, ...]
    future: tuple[Landed, ...] = ()
    others: tuple[str, ...] = ()


def judge(expected: Expectations, holding: Holding, now: datetime) -> list[Check]:
    """Given what is expected, what is there and the time, return every check."""
    if not holding.backups:
        checks = [_nothing(holding)]
        return [*checks, _clock(holding, None)] if holding.future else checks
    newest, *predecessors = holding.backups
    return [
        Check("found", True, newest.key),
        _fresh(expected, newest, now),
        _size(expected, newest),
        _shrunk(newest, predecessors[:PREDECESSORS]),
        _complete(expected, newest),
        _clock(holding, newest),
    ]


def _nothing(holding: Holding) -> Check:
    detail = f"no backup in {holding.place}"
    if holding.future:
        detail += " but such that are dated in the future"
    elif holding.others:
        detail += f"; what is there is no backup, such as {holding.others[0]}"
    return Check("found", False, detail, f"{_LOOK}; inv backup.install sets the daily run up")


def _fresh(expected: Expectations, newest: Landed, now: datetime) -> Check:
    age = max(0.0, (now - newest.timestamp).total_seconds())
    delay = (newest.last_modified - newest.timestamp).total_seconds()
    limit = format_duration(expected.max_age)
    stale = age > expected.max_age
    detail = f"made {format_duration(age)} ago, {'more than the' if stale else 'within'} {limit}"
    detail += " that max_age allows" if stale else ""
    if delay > LATE:
        detail += f"; the bucket received it {format_duration(delay)} after the time in its key"
    hint = _LOOK
    if stale and (now - newest.last_modified).total_seconds() <= expected.max_age:
        hint += (
            "; it arrived recently: either an upload was made up for, "
            "or the db host's clock is behind ('date -u' on it)"
        )
    return Check("fresh", not stale, detail, hint)


def _size(expected: Expectations, newest: Landed) -> Check:
    ok = newest.size >= expected.min_size
    least = format_size(expected.min_size)
    detail = f"{format_size(newest.size)}, {'at least' if ok else 'less than the'} {least}"
    return Check(
        "size",
        ok,
        detail if ok else f"{detail} that min_size asks for",
        "look into it with inv backup.verify --deep; if the database really is that small, "
        "lower backup.min_size in hosts.yaml",
    )


def _shrunk(newest: Landed, predecessors: Sequence[Landed]) -> Check:
    count = len(predecessors)
    if count < ENOUGH:
        few = {0: "no earlier backup", 1: "only one earlier backup"}
        said = few.get(count, f"only {count} earlier backups")
        return Check("shrunk", True, f"{said} to compare with, {ENOUGH} are needed: not judged")
    usual = median(landed.size for landed in predecessors)
    part = newest.size / usual if usual else 1.0
    return Check(
        "shrunk",
        part >= SHRUNK_BELOW,
        f"{int(part * 100)}% of the usual {format_size(round(usual))}"
        f" (median of the {count} before it)",
        "if much was deleted on purpose, this passes by itself once smaller backups are usual; "
        "if not, keep the older backups and look into this one with inv backup.verify --deep",
    )


def _complete(expected: Expectations, newest: Landed) -> Check:
    metadata = newest.metadata or {}
    size, sha256 = metadata.get("bytes", ""), metadata.get("sha256", "")
    database = metadata.get("database", expected.database)
    hint = f"do not rely on this object; {_LOOK}"
    if not size or not sha256:
        missing = " and ".join(n for n, v in (("bytes", size), ("sha256", sha256)) if not v)
        return Check(
            "complete",
            False,
            f"its metadata lacks {missing}: it was not uploaded by backup-pg.sh",
            "inv backup.run uploads one whose size and SHA-256 are recorded with it",
        )
    if size != str(newest.size):
        detail = f"{newest.size} bytes are in the bucket, {size} were to be uploaded"
        return Check("complete", False, detail, hint)
    if not _SHA256.fullmatch(sha256):
        return Check("complete", False, "the sha256 in its metadata is no SHA-256", hint)
    if database != expected.database:
        detail = f"its metadata says that it is of database {database!r}"
        return Check("complete", False, detail, hint)
    return Check("complete", True, f"all {newest.size} bytes that were to be uploaded")


def _clock(holding: Holding, newest: Landed | None) -> Check:
    hint = "compare 'date -u' on the db host and on this machine, and set the wrong one right"
    if holding.future:
        first = holding.future[0]
        detail = f"{first.key} is dated in the future"
        if newest:
            detail += "; the checks above are about the newest that is not"
        return Check(
            "clock",
            False,
            detail,
            f"{hint}; then delete or rename what carries a wrong time, or it hides newer backups",
        )
    if newest and newest.timestamp - newest.last_modified > timedelta(seconds=CLOCK_TOLERANCE):
        ahead = format_duration((newest.timestamp - newest.last_modified).total_seconds())
        detail = f"the time in its key is {ahead} later than the bucket received it"
        return Check("clock", False, detail, hint)
    return Check("clock", True, "no time in the future")
