"""Checks of the attachments' backup. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from fabfile.backup.sets import FilesState
from fabfile.backup.verify import LOOK
from fabfile.base.check import Check
from fabfile.base.units import format_duration, format_size


def judge_files(
    states: Mapping[str, FilesState | str | None],
    max_age: int,
    now: datetime,
    volume: str = "",
) -> list[Check]:
    """Given what each app host has recorded about NocoDB's attachments, or about a `volume` of
    another app, judge it.

    A text says why a record cannot be read, None that there never was one: so it is on a host
    that the app has not run on yet. That is fine as long as another host's are in the bucket;
    whoever has ever recorded something must go on doing so. `max_age` is in seconds.
    """
    young = [
        node
        for node, state in states.items()
        if isinstance(state, FilesState) and _age(state, now) <= max_age
    ]
    of = f"{volume} " if volume else ""
    return [_files(f"{of}{node}", state, young, max_age, now) for node, state in states.items()]


def _files(
    where: str, state: FilesState | str | None, young: Sequence[str], max_age: int, now: datetime
) -> Check:
    name = f"files {where}"
    if state is None:
        never = "no backup of its files was ever recorded"
        fine = f"{never}: the app has not run there yet, or backup.install is due; those of "
        detail = f"{fine}{', '.join(young)} are in the bucket" if young else never
        return Check(name, bool(young), detail, LOOK)
    if isinstance(state, str):
        return Check(name, False, state, LOOK)
    age = _age(state, now)
    stale = age > max_age
    limit = format_duration(max_age)
    return Check(
        name,
        not stale,
        f"all {state.files} files, {format_size(state.size)}, were in the bucket "
        f"{format_duration(age)} ago, {'more than the' if stale else 'within'} {limit}"
        + (" that max_age allows" if stale else ""),
        LOOK,
    )


def _age(state: FilesState, now: datetime) -> float:
    return max(0.0, (now - state.finished).total_seconds())
