"""Pure: what we expect, what the bucket holds, and the time -> checks. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from fabfile.backup.encryption_check import encrypted
from fabfile.backup.sets import NOBODYS, BackupSet, Proof
from fabfile.base.check import Check
from fabfile.base.units import format_duration, format_size
from fabfile.config.project import Project

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

_AGAIN = (
    "keep the older backups; inv backup.drill restores the newest again, inv backup.verify --deep "
    "reads it again, inv backup.run makes a new one"
)

LOOK = "inv backup.logs shows what the last runs said, inv backup.run makes a backup now"


@dataclass(frozen=True)
class Expectations:
    """What a good backup is: its database, its greatest age in seconds, its least size in bytes.

    `max_drill_age`: seconds since the last good drill that are allowed; 0 for any.
    """

    database: str
    max_age: int
    min_size: int
    max_drill_age: int = 0
    project: Project = NOBODYS
    """Which project we are; without an identity where that is not known."""
    accepted_cluster: str = ""
    """The cluster that a person has accepted after another one."""
    recipients: int = 0
    """For how many keys backups should be encrypted; 0: they should not."""


@dataclass(frozen=True)
class Holding:
    """What the bucket holds at `place` (for messages).

    `backups` newest first, the first of them with its manifest and proofs; `future` those dated
    later than the clocks' tolerance allows; `others` a few keys that are of no set;
    `incomplete` the times of parts without a manifest, newest first.
    """

    place: str
    backups: tuple[BackupSet, ...]
    future: tuple[BackupSet, ...] = ()
    others: tuple[str, ...] = ()
    incomplete: tuple[datetime, ...] = ()
    foreign: tuple[BackupSet, ...] = ()
    """Sets of other projects that were met, newest first; they are in none of the others."""


def judge(
    expected: Expectations,
    holding: Holding,
    now: datetime,
    drill: Proof | None = None,
    flaws: Mapping[str, str] | None = None,
) -> list[Check]:
    """Given what is expected, what is there and the time, return every check.

    `drill` is the last good one of this database, if there was any. `flaws`: by key, what is wrong
    with the encryption of those objects that should be encrypted ("": nothing).
    """
    if not holding.backups:
        checks = [_nothing(holding)]
        checks += [_project(expected, holding, None)] if holding.foreign else []
        return [*checks, _clock(holding, None)] if holding.future else checks
    newest, *predecessors = holding.backups
    checks = [
        _found(holding, newest),
        _fresh(expected, newest, now),
        _size(expected, newest),
        _shrunk(newest, predecessors[:PREDECESSORS]),
        _complete(newest),
        _proven(newest),
        _project(expected, holding, newest),
        _cluster(expected, newest, first=not predecessors),
        _clock(holding, newest),
    ]
    if expected.recipients:
        checks.append(encrypted("encrypted", expected.recipients, flaws or {}))
    return [*checks, _drilled(expected, drill, now)] if expected.max_drill_age else checks


def _found(holding: Holding, newest: BackupSet) -> Check:
    detail = newest.key
    later = [when for when in holding.incomplete if when > newest.timestamp]
    if later:
        detail += f"; parts of a later set are there without a manifest ({_stamped(later[0])}): "
        detail += "a run is under way, or was cut off"
    return Check("found", True, detail)


def how_far(one: BackupSet) -> str:
    """Given a set with manifest and proofs, say how far it is proven, when, and in which time."""
    if one.flaw:
        return f"{one.rung} only: {one.flaw}"
    proofs = [one.proofs[name] for name in ("drill", "deep") if name in one.proofs]
    if not proofs:
        return one.rung
    proof = next((proof for proof in proofs if not proof.ok), proofs[0])
    # One that cannot be read has no time.
    when = f" {proof.finished[:10]}, {format_duration(proof.seconds)}" if proof.finished else ""
    said = f"{one.rung}{when}"
    return said if proof.ok else f"{said}: {proof.reason}"


def _nothing(holding: Holding) -> Check:
    detail = f"no backup in {holding.place}"
    if holding.foreign:
        detail += f" of this project; set {holding.foreign[0].stamp} is another's"
    elif holding.future:
        detail += " but such that are dated in the future"
    elif holding.incomplete:
        detail += f"; there are parts without a manifest ({_stamped(holding.incomplete[0])}): "
        detail += "a run is under way, or was cut off"
    elif holding.others:
        detail += f"; what is there is no backup, such as {holding.others[0]}"
    return Check("found", False, detail, f"{LOOK}; inv backup.install sets the daily run up")


def _fresh(expected: Expectations, newest: BackupSet, now: datetime) -> Check:
    age = max(0.0, (now - newest.timestamp).total_seconds())
    delay = (newest.last_modified - newest.timestamp).total_seconds()
    limit = format_duration(expected.max_age)
    stale = age > expected.max_age
    detail = f"made {format_duration(age)} ago, {'more than the' if stale else 'within'} {limit}"
    detail += " that max_age allows" if stale else ""
    if delay > LATE:
        detail += f"; the bucket received it {format_duration(delay)} after the time in its key"
    hint = LOOK
    if stale and (now - newest.last_modified).total_seconds() <= expected.max_age:
        hint += (
            "; it arrived recently: either an upload was made up for, "
            "or the db host's clock is behind ('date -u' on it)"
        )
    return Check("fresh", not stale, detail, hint)


def _size(expected: Expectations, newest: BackupSet) -> Check:
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


def _shrunk(newest: BackupSet, predecessors: Sequence[BackupSet]) -> Check:
    count = len(predecessors)
    if count < ENOUGH:
        few = {0: "no earlier backup", 1: "only one earlier backup"}
        said = few.get(count, f"only {count} earlier backups")
        return Check("shrunk", True, f"skipped: {said}, needs {ENOUGH}")
    usual = median(one.size for one in predecessors)
    part = newest.size / usual if usual else 1.0
    return Check(
        "shrunk",
        part >= SHRUNK_BELOW,
        f"{int(part * 100)}% of the usual {format_size(round(usual))}"
        f" (median of the {count} before it)",
        "if much was deleted on purpose, this passes by itself once smaller backups are usual; "
        "if not, keep the older backups and look into this one with inv backup.verify --deep",
    )


def _complete(newest: BackupSet) -> Check:
    hint = f"do not rely on this set; {LOOK}"
    if newest.flaw or newest.manifest is None:
        return Check("complete", False, newest.flaw, hint)
    count = len(newest.manifest.parts)
    total = sum(part.size for part in newest.manifest.parts.values())
    return Check("complete", True, f"all {count} parts with all {total} bytes that were uploaded")


def _proven(newest: BackupSet) -> Check:
    ok = all(proof.ok for proof in newest.proofs.values())
    unproven = "" if newest.proofs else "; no deep read and no drill of it on record"
    return Check("proven", ok, f"{how_far(newest)}{unproven}", _AGAIN)


def _project(expected: Expectations, holding: Holding, newest: BackupSet | None) -> Check:
    """Whether one project alone writes into this folder."""
    hint = "give each project a name of its own: 'project: NAME' in hosts.yaml"
    if holding.foreign and (newest is None or holding.foreign[0].timestamp > newest.timestamp):
        first = holding.foreign[0]
        detail = f"set {first.stamp} is of {first.project}, this is {expected.project}"
        detail += "; the checks above are about the newest of ours" if newest else ""
        return Check("project", False, detail, hint)
    if newest is None or not newest.project.id:
        return Check("project", True, "not recorded: made by an earlier version")
    if expected.project.id:
        return Check("project", True, f"of {newest.project}")
    others = {one.project.id for one in holding.backups} - {newest.project.id, ""}
    said = f"of {newest.project}"
    known = f"which project this is, is not known here: set project_id: {newest.project.id}"
    if others:
        detail = f"{said}, and of {', '.join(sorted(others))}"
        return Check("project", False, detail, f"{known} or the other's in hosts.yaml; {hint}")
    return Check("project", True, f"{said}, not compared: hosts.yaml has no project_id")


def unaccepted(newest: BackupSet, accepted: str) -> str:
    """The cluster that a set should have been of, where it is of another that nobody has
    accepted; "" else.
    """
    said = newest.manifest
    if said is None or said.expected_cluster in ("", said.cluster) or said.cluster == accepted:
        return ""
    return said.expected_cluster


def _cluster(expected: Expectations, newest: BackupSet, *, first: bool) -> Check:
    """Whether it is the database that the sets before it were of."""
    cluster = newest.manifest.cluster if newest.manifest else ""
    if not cluster:
        return Check("cluster", True, "not recorded: made by an earlier version")
    before = unaccepted(newest, expected.accepted_cluster)
    if not before:
        known = "the first that is known" if first else "as before"
        return Check("cluster", True, f"system identifier {cluster}, {known}")
    return Check(
        "cluster",
        False,
        f"system identifier {cluster}; the sets before were of {before}: another database",
        "if a new one was meant: inv backup.accept; else the older sets have the data: "
        "inv backup.list, and find out what became of the old database",
    )


def _drilled(expected: Expectations, drill: Proof | None, now: datetime) -> Check:
    hint = "inv backup.drill restores the newest set into a throwaway PostgreSQL and counts"
    limit = format_duration(expected.max_drill_age)
    if drill is None or not drill.ok:
        said = drill.reason if drill else ""
        return Check("drilled", False, said or "no good drill is on record", hint)
    try:
        age = (now - datetime.fromisoformat(drill.finished)).total_seconds()
    except (ValueError, TypeError):
        return Check("drilled", False, f"its time cannot be read: {drill.finished!r}", hint)
    old = age > expected.max_drill_age
    detail = f"the last good drill was {format_duration(max(0.0, age))} ago, "
    detail += f"more than the {limit} that max_drill_age allows" if old else f"within {limit}"
    return Check("drilled", not old, detail, hint)


def _clock(holding: Holding, newest: BackupSet | None) -> Check:
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
    return Check("clock", True, "no time is in the future")


def _stamped(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
