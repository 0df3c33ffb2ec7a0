"""Which backups stay and which may go, and why. Pure: policy, sets and the time -> decisions.

Of each day, week (ISO), month and year, in UTC, the newest complete set stands for the period;
the policy says how many periods are kept, counted from the newest that have a set at all. So no
backup goes only because time has passed, and none is ever due that an earlier prune has taken:
while a period lasts, its newest set is the newest of all, which always stays; when the period is
over, the set that stands for it no longer changes. (Windows that move with the clock, "one of the
last seven days", would starve the longer ones, since their newest changes every day.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fabfile.backup.sets import RUNGS, BackupSet
from fabfile.backup.verify import CLOCK_TOLERANCE
from fabfile.config.backup import Retention

INCOMPLETE = "not complete, so neither counted nor touched"
CLUSTER_BEFORE = "of the cluster before, until the new one is accepted"
READABLE = "newest that today's keys can read"
FUTURE = "dated in the future: some clock is wrong"


@dataclass(frozen=True)
class Decision:
    """A set and every reason to keep it. `counted`: it is complete and not of the future."""

    backup: BackupSet
    reasons: tuple[str, ...]
    counted: bool

    @property
    def goes(self) -> bool:
        """Whether nothing speaks for keeping it."""
        return not self.reasons


def decide(
    policy: Retention,
    sets: Sequence[BackupSet],
    now: datetime,
    *,
    unaccepted: bool = False,
    key_ids: Collection[str] = (),
) -> list[Decision]:
    """Given the policy, a database's sets with manifests and proofs, and the time, return a
    decision on each, newest first.

    `unaccepted`: the newest set is of another cluster than those before, and nobody has accepted
    that yet. Perhaps the database was lost: then nothing of the cluster before goes. `key_ids` are
    the keys whose identities people have today: the newest set that one of them reads stays.
    """
    ordered = sorted(sets, key=lambda one: one.timestamp, reverse=True)
    latest = now + timedelta(seconds=CLOCK_TOLERANCE)
    counted = [one for one in ordered if not one.flaw and one.timestamp <= latest]
    reasons: dict[datetime, list[str]] = {one.timestamp: [] for one in ordered}
    for one in ordered:
        if one.timestamp > latest:
            reasons[one.timestamp].append(FUTURE)
        elif one.flaw:
            reasons[one.timestamp].append(f"{INCOMPLETE}: {one.flaw}")
    for one, reason in _kept(policy, counted):
        reasons[one.timestamp].append(reason)
    if unaccepted and counted:
        newest = _cluster(counted[0])
        for one in counted:
            if _cluster(one) != newest:
                reasons[one.timestamp].append(CLUSTER_BEFORE)
    if any(one.recipients for one in counted):
        readable = [one for one in counted if _readable(one, key_ids)]
        for one in readable[:1]:
            reasons[one.timestamp].append(READABLE)
    standing = {one.timestamp for one in counted}
    return [
        Decision(one, tuple(reasons[one.timestamp]), one.timestamp in standing) for one in ordered
    ]


def _kept(policy: Retention, counted: Sequence[BackupSet]) -> Iterator[tuple[BackupSet, str]]:
    """Each reason to keep one of the complete sets, which come newest first."""
    yield from ((one, "newest") for one in counted[:1])
    for proof in ("drilled", "deep-read"):
        proven = [one for one in counted if one.rung in RUNGS[RUNGS.index(proof) :]]
        yield from ((one, f"newest {proof}") for one in proven[:1])
    # What failed a drill or a deep read stands for its period only where nothing else does.
    best_first = sorted(counted, key=_failed)
    for name, count, period in (
        ("daily", policy.daily, "{:%Y-%m-%d}".format),
        ("weekly", policy.weekly, "{:%G-W%V}".format),
        ("monthly", policy.monthly, "{:%Y-%m}".format),
        ("yearly", policy.yearly, "{:%Y}".format),
    ):
        for which, one in _newest_periods(best_first, period, count):
            yield one, f"{name} {which}"
    yield from ((one, "keep_min") for one in best_first[: policy.minimum])


def _newest_periods(
    best_first: Sequence[BackupSet], period: Callable[[datetime], str], count: int
) -> list[tuple[str, BackupSet]]:
    """The newest `count` periods that have a set, each with the one that stands for it."""
    standing: dict[str, BackupSet] = {}
    for one in best_first:
        standing.setdefault(period(one.timestamp), one)
    return sorted(standing.items(), reverse=True)[:count]


def _readable(one: BackupSet, key_ids: Collection[str]) -> bool:
    return not one.recipients or not set(one.recipients).isdisjoint(key_ids)


def _cluster(one: BackupSet) -> str:
    return one.manifest.cluster if one.manifest else ""


def _failed(one: BackupSet) -> bool:
    return one.rung not in RUNGS
