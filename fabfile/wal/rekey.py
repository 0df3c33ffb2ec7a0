"""Base backups and WAL encrypted anew for today's recipients.

A segment's name has the MD5 of its object, so the new one has another name, with the beginning of
the former MD5 in it: whoever reads the WAL takes the new one as long as both are there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabfile.base import json_text

if TYPE_CHECKING:
    from fabfile.s3.objects import Part
    from fabfile.s3.reencryption import Reencryption
    from fabfile.wal.chain import Base, History
    from fabfile.wal.object_keys import Segment

AT_ONCE = 4


@dataclass(frozen=True)
class WalToRekey:
    """What of a cluster is not encrypted for today's recipients, and what a former run has left."""

    history: History
    bases: tuple[Base, ...]
    segments: tuple[Segment, ...]
    left: tuple[Part, ...]
    """What has been encrypted anew already: it goes when it is old enough."""
    skipped: tuple[str, ...] = ()
    """What cannot be encrypted anew, each with the reason."""

    @property
    def count(self) -> int:
        """How many objects are to be changed."""
        return len(self.bases) + len(self.segments) + len(self.left)


def find(history: History, work: Reencryption) -> WalToRekey:
    """Look which objects are not encrypted for today's recipients: a request for each segment."""
    start = _start(history)
    good = [base for base in history.bases if not base.flaw]
    bases = tuple(base for base in good if set(base.recipients) != set(work.key_ids))
    left = [f"{start}{name}" for base in good for name in base.object_names
            if base not in bases and name != base.object_name]  # fmt: skip
    made = {(one.name, one.made_of) for one in history.segments if one.made_of}
    segments, kms = [], work.objects.backup.encryption == "aws:kms"
    skipped = [f"base backup {base.stamp}: {base.flaw}" for base in history.bases if base.flaw]
    right = _are_right(work, history.segments)
    for segment, is_right in zip(history.segments, right, strict=True):
        if (segment.name, segment.md5[:8]) in made:
            left.append(segment.key)
        elif not segment.intact and not kms:
            skipped.append(f"{segment.key}: is not what was uploaded")
        elif not is_right:
            segments.append(segment)
    parts = [part for key in left if (part := work.objects.part(key))]
    return WalToRekey(history, bases, tuple(segments), tuple(parts), tuple(skipped))


def _are_right(work: Reencryption, segments: Sequence[Segment]) -> list[bool]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: work.is_right(one.key), segments))


def rekey(found: WalToRekey, work: Reencryption) -> None:
    """Encrypt them. Raises the first SwarmkeepError; what was not done yet is as before."""
    for base in found.bases:
        _rekey_base(found.history, base, work)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda segment: _rekey_segment(segment, work), found.segments):
            pass
    for part in found.left:
        work.forget(part)


def _rekey_base(history: History, base: Base, work: Reencryption) -> None:
    start = _start(history)
    manifest = f"{start}base_{base.stamp}.json"
    there, text = work.objects.part(manifest), work.objects.small(manifest)
    former = work.objects.part(f"{start}{base.object_name}")
    if there is None or text is None or former is None:
        return  # pruned meanwhile
    data = json_text.parse(text)
    with work.prepared(former, sha256=str(data.get("sha256", ""))) as made:
        new = f"{start}base_{base.stamp}.tar.gz.{made.tag}.age"
        work.put(made, new)
    data |= {"key": new, "bytes": made.size, "sha256": made.sha256}
    data["recipients"] = list(work.key_ids)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in data.items())
    text = f"{{{lines}}}\n".encode()
    work.objects.replace_text(manifest, text, "application/json", there.etag)
    work.objects.delete(former.key)


def _rekey_segment(segment: Segment, work: Reencryption) -> None:
    former = work.objects.part(segment.key)
    if former is None:
        return  # pruned meanwhile
    stem = segment.key.partition(f"_{segment.md5}.gz")[0]
    with work.prepared(former, md5=segment.md5) as made:
        work.put(made, f"{stem}_{made.md5}.gz.{segment.md5[:8]}.age")
    work.objects.delete(former.key)


def _start(history: History) -> str:
    return history.place.partition("//")[2].partition("/")[2]
