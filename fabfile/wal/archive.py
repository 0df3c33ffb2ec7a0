"""Reading base backups, WAL and marks of a cluster from the bucket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fabfile.s3.objects import Objects
from fabfile.wal.chain import (
    Base,
    History,
    Replay,
    parse_base_manifest,
    parse_replay,
    with_parents_judged,
)
from fabfile.wal.object_keys import (
    clusters_folder,
    folder,
    is_cluster,
    parse_base,
    parse_mark,
    parse_segment,
    parse_time,
)

if TYPE_CHECKING:
    from fabfile.wal.object_keys import Mark

_AT_ONCE = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WalArchive:
    """What the bucket has for point-in-time recovery. `project_id` is ours, "" where unknown."""

    def __init__(self, objects: Objects, project_id: str) -> None:
        self._objects = objects
        self._project_id = project_id

    def clusters(self) -> list[str]:
        """The clusters that something is archived of, by number."""
        prefix = clusters_folder(self._objects.backup.project)
        names = [
            group["Prefix"].removeprefix(prefix).rstrip("/")
            for page in self._objects.list_all({"Prefix": prefix, "Delimiter": "/"})
            for group in page.get("CommonPrefixes", [])
        ]
        return sorted(filter(is_cluster, names))

    def history(self, cluster: str, *, everything: bool = False) -> History:
        """What there is of a cluster: a listing of a request for each 1,000 keys, and one request
        for each base backup. Base backups of another project are left out, and so are segments that
        no base backup needs, unless `everything` is asked for.

        Raises UnreachableError or ConfigError.
        """
        start = folder(cluster, self._objects.backup.project)
        place = f"s3://{self._objects.name}/{start}"
        bases: dict[str, dict[str, int]] = {}
        marks: list[Mark] = []
        # What is no segment sorts after them: timelines begin with a digit.
        for name, size, _ in self._listed(f"{start}base_", start):
            if found := parse_base(name):
                bases.setdefault(found[0], {})[found[1]] = size
        for name, _, _ in self._listed(f"{start}mark_", start):
            if mark := parse_mark(name):
                marks.append(mark)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            read = list(pool.map(lambda one: self._base(start, cluster, *one), bases.items()))
        ours = with_parents_judged([b for b in read if b and not self._foreign(b)])
        ours.sort(key=lambda base: base.stamp, reverse=True)
        first = min((base.segment for base in ours if not base.flaw), default="")
        # What KMS encrypts has an ETag that is no MD5, though it looks like one.
        kms = self._objects.backup.encryption == "aws:kms"
        after = f"{start}{first[:16]}/{first}" if first and not everything else start
        segments = [
            segment
            for name, _, etag in self._listed(f"{start}0", start, StartAfter=after)
            if (segment := parse_segment(name, "" if kms else etag, f"{start}{name}"))
        ]
        segments.sort(key=lambda segment: (segment.name, segment.until))
        marks.sort(key=lambda mark: mark.time, reverse=True)
        return History(
            cluster,
            place,
            tuple(ours),
            tuple(segments),
            tuple(marks),
            self._replay(start),
            shared=any(self._foreign(base) for base in read if base),
        )

    def _replay(self, start: str) -> Replay | None:
        text = self._objects.small(f"{start}drill.json")
        try:
            return None if text is None else parse_replay(text)
        except ValueError as error:
            return Replay(False, _EPOCH, 0, "", str(error))

    def _foreign(self, base: Base) -> bool:
        return bool(base.project_id and self._project_id and base.project_id != self._project_id)

    def _base(self, start: str, cluster: str, stamp: str, sizes: dict[str, int]) -> Base | None:
        """A base backup; None while it is being uploaded: its manifest comes last."""
        if "json" not in sizes:
            return None
        try:
            text = self._objects.small(f"{start}base_{stamp}.json")
            if text is None:
                return None  # pruned meanwhile
            base = parse_base_manifest(text, stamp, cluster)
        except ValueError as error:
            names = tuple(f"base_{stamp}.{end}" for end in sizes if end != "json")
            return Base(
                stamp, _time(stamp), "", 2**24, 0, 0, 0, 0, "", str(error), object_names=names
            )
        there = sizes.get(base.object_name.partition(".")[2], 0)
        if there != base.stored:
            flaw = f"its object has {there} bytes, its manifest says {base.stored}"
            base = replace(base, flaw=flaw)
        names = tuple(f"base_{stamp}.{end}" for end in sizes if end != "json")
        return replace(base, object_names=names)

    def _listed(self, prefix: str, start: str, **more: Any) -> Iterator[tuple[str, int, str]]:
        for page in self._objects.list_all({"Prefix": prefix, **more}):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(start), item["Size"], item["ETag"]


def _time(stamp: str) -> datetime:
    try:
        return parse_time(stamp)
    except ValueError:
        return _EPOCH
