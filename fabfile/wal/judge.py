"""Checks of base backups and WAL, for inv backup.verify. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fabfile.base.check import Check
from fabfile.base.units import format_duration
from fabfile.wal.chain import History

SLACK = 90
"""Seconds that an upload may take, and cron to begin."""
CLOCK_TOLERANCE = 300
_LOOK = "look at the db host: inv backup.logs; inv doctor"


@dataclass(frozen=True)
class WalExpectations:
    """What hosts.yaml says, in seconds: how often WAL is uploaded, how old a base backup may be."""

    tick: int
    max_base_age: int
    max_drill_age: int = 0
    """0: it is not asked when the chain was last replayed."""


def judge(expected: WalExpectations, history: History | None, now: datetime) -> list[Check]:
    """Given what is there of the cluster of the newest set (None: of no cluster), check it."""
    if history is None or not (history.segments or history.bases):
        detail = "no WAL and no base backup is in the bucket"
        return [Check("wal", False, detail, f"inv backup.install begins it; {_LOOK}")]
    return [
        _wal(expected, history, now),
        _chain(expected, history, now),
        _base(expected, history, now),
        _replayed(expected, history, now),
    ]


def _wal(expected: WalExpectations, history: History, now: datetime) -> Check:
    until = history.until
    if until is None:
        return Check("wal", False, "no segment of the WAL is in the bucket", _LOOK)
    age = (now - until).total_seconds()
    limit = _limit(expected)
    if age < -CLOCK_TOLERANCE:
        detail = f"the newest commit is dated {format_duration(-age)} in the future"
        return Check("wal", False, detail, "set the db host's clock right: 'date -u' on it")
    said = f"every commit up to {format_duration(max(0.0, age))} ago is in the bucket"
    if age > limit:
        said += f", more than the {format_duration(limit)} that wal_tick allows"
    return Check("wal", age <= limit, said, _LOOK)


def _replayed(expected: WalExpectations, history: History, now: datetime) -> Check:
    hint = "inv backup.drill --at now replays base backup and WAL in a throwaway PostgreSQL"
    last, most = history.replay, expected.max_drill_age
    if last is None:
        return Check("replayed", not most, "no drill of base backup and WAL is on record", hint)
    age = max(0.0, (now - last.finished).total_seconds())
    took, ago = format_duration(last.seconds), format_duration(age)
    if not last.ok:
        detail = f"the last drill of base backup and WAL failed {ago} ago: {last.reason}"
        return Check("replayed", False, detail, f"{hint}; {_LOOK}")
    said = f"to the end {ago} ago, in {took}"
    if most and age > most:
        said += f", more than the {format_duration(most)} that max_drill_age allows"
        return Check("replayed", False, said, hint)
    return Check("replayed", True, said)


def _limit(expected: WalExpectations) -> int:
    """Seconds after which a commit must be in the bucket."""
    return 3 * expected.tick + SLACK


def _chain(expected: WalExpectations, history: History, now: datetime) -> Check:
    usable = [base for base in history.bases if not base.flaw]
    if not usable:
        flaw = f": {history.bases[0].stamp}: {history.bases[0].flaw}" if history.bases else ""
        detail = f"no base backup can be used{flaw}"
        return Check("chain", False, detail, f"one is made by itself; {_LOOK}")
    # What follows on one that was made a moment ago is not due yet.
    due = [one for one in usable if (now - one.finished).total_seconds() > _limit(expected)]
    reaches = [history.reach(one) for one in usable]
    reach = next((one for one in reaches if one.whole or one.base in due), reaches[0])
    base = reach.base
    newest = history.until
    if reach.whole and not reach.flaw and newest and reach.until >= newest:
        detail = f"no gap in {reach.segments} segments since base backup {base.stamp}"
        return Check("chain", True, detail)
    said = f"base backup {base.stamp} leads to {reach.until:%Y-%m-%d %H:%M:%S} UTC only"
    hint = f"a new base backup begins a new chain: inv backup.base; {_LOOK}"
    why = reach.flaw or "the WAL that was written while it was made is not there yet"
    return Check("chain", False, f"{said}: {why}", hint)


def _base(expected: WalExpectations, history: History, now: datetime) -> Check:
    base = history.newest_base
    if base is None:
        return Check("base", False, "no base backup can be used", f"inv backup.base; {_LOOK}")
    age = max(0.0, (now - base.finished).total_seconds())
    limit = format_duration(expected.max_base_age)
    old = age > expected.max_base_age
    detail = f"made {format_duration(age)} ago, {'more than the' if old else 'within'} {limit}"
    detail += " that max_base_age allows" if old else ""
    return Check("base", not old, detail, f"inv backup.base; {_LOOK}")
