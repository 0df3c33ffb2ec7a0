"""Base backups and WAL encrypted anew for today's recipients.

A segment's name has the MD5 of its object, so the new one has another name: it says in its metadata
which one it was made of, and that one goes. After a run that was cut off both are there, and the
next run removes the former.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabfile.base import json_text
from fabfile.s3.objects import Part

if TYPE_CHECKING:
    from fabfile.s3.reencryption import Reencryption
    from fabfile.wal.chain import Base, History
    from fabfile.wal.object_keys import Segment

AT_ONCE = 4
MADE_OF = "made-of"
"""The metadata of a segment that was encrypted anew: the MD5 of the object that it was made of."""


@dataclass(frozen=True)
class WalToRekey:
    """What of a cluster is not encrypted for today's recipients, and what a former run has left."""

    history: History
    bases: tuple[Base, ...]
    segments: tuple[Segment, ...]
    left: tuple[str, ...]
    """Keys of what has been encrypted anew already."""

    @property
    def count(self) -> int:
        """How many objects are to be changed."""
        return len(self.bases) + len(self.segments) + len(self.left)


def find(history: History, work: Reencryption) -> WalToRekey:
    """Look which objects are not encrypted for today's recipients: a request for each segment."""
    start = _start(history)
    bases = tuple(
        base
        for base in history.bases
        if not base.flaw and set(base.recipients) != set(work.key_ids)
    )
    left = [
        f"{start}{name}"
        for base in history.bases
        if not base.flaw
        for name in base.object_names
        if name != base.object_name
    ]
    said = dict(zip(history.segments, _metadata(work, history.segments), strict=True))
    former = {(s.name, made) for s, about in said.items() if (made := about.get(MADE_OF))}
    segments = []
    for segment, about in said.items():
        if (segment.name, segment.md5) in former:
            left.append(segment.key)
        elif about.get("recipients") != work.metadata:
            segments.append(segment)
    return WalToRekey(history, bases, tuple(segments), tuple(left))


def _metadata(work: Reencryption, segments: Sequence[Segment]) -> Iterable[dict[str, str]]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: dict(work.objects.metadata(one.key)), segments))


def rekey(found: WalToRekey, work: Reencryption) -> None:
    """Encrypt them. Raises the first SwarmkeepError; what was not done yet is as before."""
    for base in found.bases:
        _rekey_base(found.history, base, work)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda segment: _rekey_segment(segment, work), found.segments):
            pass
    for key in found.left:
        work.objects.delete(key)


def _rekey_base(history: History, base: Base, work: Reencryption) -> None:
    start = _start(history)
    text = work.objects.small(f"{start}base_{base.stamp}.json")
    if text is None:
        return  # pruned meanwhile
    data = json_text.parse(text)
    new = f"{start}base_{base.stamp}.tar.gz.{work.tag}.age"
    with work.prepared(_part(work, f"{start}{base.object_name}")) as made:
        work.put(made, new)
    data |= {"key": new, "bytes": made.size, "sha256": made.sha256}
    data["recipients"] = list(work.key_ids)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in data.items())
    work.objects.put_text(
        f"{start}base_{base.stamp}.json", f"{{{lines}}}\n".encode(), "application/json"
    )
    work.objects.delete(f"{start}{base.object_name}")


def _rekey_segment(segment: Segment, work: Reencryption) -> None:
    stem = segment.key.partition(f"_{segment.md5}.gz")[0]
    with work.prepared(_part(work, segment.key)) as made:
        work.put(made, f"{stem}_{made.md5}.gz.age", {MADE_OF: segment.md5})
    work.objects.delete(segment.key)


def _part(work: Reencryption, key: str) -> Part:
    return next(part for part in work.objects.parts(key) if part.key == key)


def _start(history: History) -> str:
    return history.place.partition("//")[2].partition("/")[2]
