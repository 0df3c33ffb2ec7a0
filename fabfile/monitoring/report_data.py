"""What the report page shows, gathered from the bucket: the history of one database's sets.

The sizes of all sets come from one listing. Rows, durations and drills are in objects of their own:
of these a bounded number is read, the newest and an even choice of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from fabfile.backup.retention import Decision, decide
from fabfile.backup.sets import BackupSet, Manifest, Recorded
from fabfile.backup.verdict import Verdict, look
from fabfile.backup.verify import ENOUGH, PREDECESSORS, SHRUNK_BELOW

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.config.backup import Retention
    from fabfile.config.inventory import Inventory

MANIFESTS = 90
"""Manifests that are read: a request each."""
DRILLS = 40
"""Outcomes of drills that are read."""
_AHEAD = 800
"""Days that the retention is played through."""


@dataclass(frozen=True)
class Kept:
    """A set that retention keeps: why, and the day it would go; None: later than we looked."""

    backup: BackupSet
    reasons: tuple[str, ...]
    until: datetime | None


@dataclass(frozen=True)
class History:
    """What there is of one database. Sets are the oldest first."""

    verdict: Verdict
    sets: tuple[BackupSet, ...]
    """All of them; those whose manifest was not read have one made up of the listing."""
    read: tuple[BackupSet, ...]
    """Those whose manifest and proofs were read."""
    shrunk: frozenset[datetime]
    """Times of sets that were much smaller than those before them."""
    kept: tuple[Kept, ...]
    going: tuple[BackupSet, ...]
    """What the next prune may delete."""


def gather(inventory: Inventory, bucket: Bucket, database: str) -> History:
    """Look at everything that the bucket holds of a database. Raises as the bucket does."""
    verdict = look(inventory, bucket, database)
    listed = bucket.latest(database, verdict.now, 0).backups
    complete = [one for one in reversed(listed) if {"manifest", "dump"} <= set(one.parts)]
    wanted = {one.timestamp for one in _chosen(complete)}
    wanted |= {one.timestamp for one in [o for o in complete if "drill" in o.parts][-DRILLS:]}
    read = bucket.with_proofs(database, [one for one in complete if one.timestamp in wanted])
    read = [one for one in read if not one.project.is_another(bucket.project_id)]
    known = {one.timestamp: one for one in read}
    foreign = wanted - set(known)
    sets = [
        known.get(one.timestamp) or _assumed(one, database)
        for one in complete
        if one.timestamp not in foreign
    ]
    decisions = decide(inventory.backup.retention, sets, verdict.now)
    return History(
        verdict,
        tuple(sets),
        tuple(read),
        frozenset(_shrunk(sets)),
        tuple(_kept(inventory.backup.retention, decisions, verdict.now)),
        tuple(one.backup for one in decisions if one.goes),
    )


def _chosen(sets: Sequence[BackupSet]) -> list[BackupSet]:
    """The newest third of what may be read, and an even choice of the older ones."""
    newest = MANIFESTS // 3
    older = sets[:-newest]
    step = max(1, -(-len(older) // (MANIFESTS - newest)))
    return [*older[::step], *sets[-newest:]]


def _assumed(one: BackupSet, database: str) -> BackupSet:
    """A set that is complete as far as the listing shows, without its manifest's facts."""
    parts = {
        name: Recorded(part.key, part.size, "")
        for name, part in one.parts.items()
        if name in ("dump", "globals")
    }
    manifest = Manifest("", database, "", 0, parts, "", 0, 0, {}, None, {})
    return replace(one, manifest=manifest)


def _shrunk(sets: Sequence[BackupSet]) -> list[datetime]:
    found = []
    for place, one in enumerate(sets):
        before = sets[max(0, place - PREDECESSORS) : place]
        if len(before) >= ENOUGH and one.size < SHRUNK_BELOW * median(b.size for b in before):
            found.append(one.timestamp)
    return found


def _kept(policy: Retention, decisions: Sequence[Decision], now: datetime) -> list[Kept]:
    """Until when each set that stays would stay, if a backup of each day follows and is pruned."""
    staying = {one.backup.timestamp: one for one in decisions if not one.goes}
    until: dict[datetime, datetime] = {}
    present = [one.backup for one in staying.values()]
    newest = max(staying, default=now)
    pattern = staying[newest].backup if staying else None
    for day in range(1, _AHEAD):
        if pattern is None or len(until) == len(staying):
            break
        when = newest + timedelta(days=day)
        present = [replace(pattern, timestamp=when, proofs={}), *present]
        left = decide(policy, present, when)
        for one in left:
            if one.goes and one.backup.timestamp in staying:
                until[one.backup.timestamp] = when
        present = [one.backup for one in left if not one.goes]
    return [Kept(one.backup, one.reasons, until.get(when)) for when, one in sorted(staying.items())]
