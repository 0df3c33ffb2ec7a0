"""Which base backups, segments and marks may go. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from fabfile.wal.chain import Base, History, ancestors
from fabfile.wal.object_keys import Mark, Segment


@dataclass(frozen=True)
class Decision:
    """What stays of a cluster and what may go. `reason` says why all of it stays or goes, where no
    base backup decides that.
    """

    kept: tuple[Base, ...]
    """Base backups that stay for their own sake."""
    bases: tuple[Base, ...]
    """Base backups that may go."""
    segments: tuple[Segment, ...]
    marks: tuple[Mark, ...]
    reason: str = ""

    @property
    def anything(self) -> bool:
        """Whether anything may go."""
        return bool(self.bases or self.segments or self.marks)


def decide(history: History, window: int, now: datetime) -> Decision:
    """Given a cluster's history, for how many seconds one wants to go back, and the time, return
    what may go.

    What stays: the newest usable base backup that had ended when the window begins and everything
    after it; the newest base backup always; those that a kept incremental one is combined from;
    every segment from the first that the oldest kept base backup needs on.
    """
    begin = now - timedelta(seconds=window)
    usable = [base for base in history.bases if not base.flaw]
    before = [base for base in usable if base.finished <= begin]
    if not before:
        reason = "no base backup is older than the window" if usable else "no base backup is usable"
        return Decision(tuple(usable), (), (), (), reason)
    oldest = max(before, key=lambda base: base.finished)
    kept = tuple(base for base in usable if base.finished >= oldest.finished)
    needed = min(base.segment for base in kept)
    stays = {*kept, *(part for base in kept for part in ancestors(base, history.bases))}
    return Decision(
        kept,
        # A damaged one may be looked into as long as its time is within the window.
        tuple(b for b in history.bases if b not in stays and b.stamp < oldest.stamp),
        tuple(segment for segment in history.segments if segment.name < needed),
        tuple(mark for mark in history.marks if mark.time < oldest.finished),
    )


def decide_former(history: History, window: int, now: datetime) -> Decision:
    """The same of a cluster that is not the live one any more: all of it stays until its newest
    commit is older than the window.
    """
    until = max(
        filter(None, [history.until, *(base.finished for base in history.bases)]), default=None
    )
    if until is None or until >= now - timedelta(seconds=window):
        return Decision(history.bases, (), (), (), "of a former cluster, and within the window")
    reason = "of a former cluster, and older than the window"
    return Decision((), history.bases, history.segments, history.marks, reason)
