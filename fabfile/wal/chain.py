"""How far base backups and WAL reach: from which second to which one can go. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fabfile.base import json_text
from fabfile.wal.object_keys import Mark, Segment, next_segment, parse_time

FORMAT, INCREMENTAL = 1, 2


@dataclass(frozen=True)
class Base:
    """A base backup: a copy of the whole cluster, from which the WAL leads on."""

    stamp: str
    finished: datetime
    segment: str
    """The first segment that is needed with it."""
    segment_bytes: int
    major: int
    size: int
    """Bytes of all databases."""
    stored: int
    """Bytes of its object."""
    seconds: int
    project_id: str
    flaw: str = ""
    """Why it cannot be used; "" for nothing."""
    parent: str = ""
    """The time stamp of the base backup that an incremental one only adds to; "" for a full one."""
    recipients: tuple[str, ...] = ()
    """The ids of the keys that it is encrypted for; none where it is not."""

    object_name: str = ""
    """Its object below the cluster's folder."""
    object_names: tuple[str, ...] = ()
    """All objects of its name that are there: an upload or a rekey may have been cut off."""


@dataclass(frozen=True)
class Reach:
    """How far the WAL leads on from a base backup. `flaw` says why it does not lead further than
    `until`, "" where it leads to the newest segment there is.
    """

    base: Base
    until: datetime
    flaw: str
    segments: int
    whole: bool = False
    """Whether all WAL is there that was written while the base backup was made: it needs that."""


@dataclass(frozen=True)
class Window:
    """Any second from `start` to `end` can be restored, both included."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Replay:
    """The outcome of the last drill that replayed base backup and WAL: inv backup.drill --at."""

    ok: bool
    finished: datetime
    seconds: int
    until: str
    reason: str


@dataclass(frozen=True)
class History:
    """What the bucket has of one cluster: base backups (newest first), segments by name, marks."""

    cluster: str
    place: str
    bases: tuple[Base, ...] = ()
    segments: tuple[Segment, ...] = ()
    marks: tuple[Mark, ...] = ()
    replay: Replay | None = None
    shared: bool = False
    """Whether another project has base backups of it, too."""

    @property
    def newest_base(self) -> Base | None:
        """The newest base backup that can be used."""
        return next((base for base in self.bases if not base.flaw), None)

    @property
    def until(self) -> datetime | None:
        """The time up to which every commit is in some segment."""
        return max((segment.until for segment in self.segments), default=None)

    def reach(self, base: Base) -> Reach:
        """How far the WAL leads on from a base backup."""
        return reach(base, self.segments)

    def keys_for(self, when: datetime) -> tuple[frozenset[str], bool]:
        """The ids of the keys that read all that leads to a time, and whether any of it is
        encrypted. No ids where only segments are: they do not tell.
        """
        usable = [base for base in self.bases if not base.flaw and base.finished <= when]
        chain = [usable[0], *ancestors(usable[0], self.bases)] if usable else []
        first = min((base.segment for base in chain), default="")
        needed = [frozenset(base.recipients) for base in chain if base.recipients]
        encrypted = bool(needed) or any(
            segment.encrypted for segment in self.segments if segment.name >= first
        )
        common = frozenset.intersection(*needed) if needed else frozenset()
        return common or frozenset().union(*needed), encrypted

    def windows(self) -> list[Window]:
        """From when to when one can go, the latest first."""
        reaches = [self.reach(base) for base in self.bases if not base.flaw]
        return merged([Window(r.base.finished, r.until) for r in reaches if r.whole])


def with_parents_judged(bases: Sequence[Base]) -> list[Base]:
    """Given all base backups, return them; an incremental one whose parent is not there, or cannot
    be used, has that as its flaw.
    """
    judged: dict[str, Base] = {}
    for base in sorted(bases, key=lambda one: one.stamp):
        parent = judged.get(base.parent)
        if base.parent and not base.flaw and (parent is None or parent.flaw):
            why = parent.flaw if parent else "is not in the bucket"
            base = replace(base, flaw=f"base backup {base.parent}, which it adds to: {why}")  # noqa: PLW2901
        judged[base.stamp] = base
    return [judged[base.stamp] for base in bases]


def ancestors(base: Base, bases: Sequence[Base]) -> list[Base]:
    """The base backups that an incremental one is combined from, as far as they are there, the
    nearest first.
    """
    known = {one.stamp: one for one in bases}
    found = []
    while (parent := known.get(base.parent)) and parent.stamp < base.stamp:
        found.append(parent)
        base = parent
    return found


def reach(base: Base, segments: Sequence[Segment]) -> Reach:
    """Given a base backup and the segments by name, return how far they lead.

    A segment that is missing, that is not what was uploaded, or that is there twice with different
    contents ends the way: the commits up to the segment before it can be reached.
    """
    wanted, flaw, count, last = base.segment, "", 0, None
    until: datetime | None = None
    earlier = until
    for segment in segments:
        if segment.name < base.segment:
            continue
        if last and segment.name == last.name:
            if segment.same_content(last):
                # Uploaded twice, after a run that was cut off; or encrypted anew.
                continue
            flaw = f"segment {segment.name} is there twice: two servers archive as one cluster"
            # Nobody knows which of them belongs to the base backup.
            until, count = earlier, count - 1
        elif segment.name != wanted:
            flaw = f"segment {wanted} is missing"
        elif not segment.intact:
            flaw = f"{segment.key} is not what was uploaded: its MD5 is another"
        if flaw:
            break
        earlier = until
        until, count, last = max(until or segment.until, segment.until), count + 1, segment
        wanted = next_segment(segment.name, base.segment_bytes)
    if not count and not flaw:
        flaw = f"segment {wanted} is missing"
    whole = until is not None and until >= base.finished
    return Reach(base, max(until or base.finished, base.finished), flaw, count, whole)


def merged(windows: Sequence[Window]) -> list[Window]:
    """Given windows, return those that do not touch each other, the latest first."""
    found: list[Window] = []
    for window in sorted(windows, key=lambda one: one.start):
        if found and window.start <= found[-1].end:
            found[-1] = Window(found[-1].start, max(found[-1].end, window.end))
        else:
            found.append(window)
    return found[::-1]


def parse_base_manifest(text: str | bytes, stamp: str, cluster: str) -> Base:
    """Given the text of a base backup's manifest, return it. Raises ValueError that says what is
    wrong with it.
    """
    data = json_text.parse(text)
    if not isinstance(data, dict) or data.get("format") not in (FORMAT, INCREMENTAL):
        raise ValueError("its manifest is of no known format")
    if bool(data.get("parent")) != (data["format"] == INCREMENTAL):
        raise ValueError("its manifest does not say whether it is incremental")
    if data.get("cluster") != cluster:
        raise ValueError(f"its manifest says that it is of cluster {data.get('cluster')!r}")
    try:
        project = data.get("project") or {}
        return Base(
            stamp,
            parse_time(_text(data["finished"])),
            _text(data["segment"]),
            _count(data["segment_bytes"]) or 2**24,
            _count(data["server_version_num"]) // 10000,
            _count(data["size"]),
            _count(data["bytes"]),
            _count(data["seconds"]),
            _text(project.get("id", "")),
            parent=_text(data.get("parent", "")),
            recipients=tuple(_text(one) for one in data.get("recipients") or ()),
            object_name=_text(data.get("key", f"base_{stamp}.tar.gz")).rpartition("/")[2],
        )
    except KeyError as error:
        raise ValueError(f"its manifest lacks {error}") from None


def parse_replay(text: str | bytes) -> Replay:
    """Given the text of a drill's outcome, return it. Raises ValueError that says what is wrong."""
    data = json_text.parse(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError("the last drill's outcome is of no known format")
    try:
        finished = datetime.fromisoformat(_text(data["finished"]))
        if finished.tzinfo is None:
            raise ValueError("the last drill's outcome has a time without a zone")
        return Replay(
            data["outcome"] == "ok",
            finished,
            _count(data["seconds"]),
            _text(data.get("until", "")),
            _text(data.get("reason", "")),
        )
    except KeyError as error:
        raise ValueError(f"the last drill's outcome lacks {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"its manifest has {value!r} where a text belongs")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"its manifest has {value!r} where a count belongs")
    return value
