"""Deleting base backups, segments and marks from the bucket. For inv backup.prune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fabfile.base.errors import SwarmkeepError
from fabfile.s3.objects import Objects
from fabfile.wal.object_keys import stamp

if TYPE_CHECKING:
    from fabfile.wal.chain import Base, History
    from fabfile.wal.retention import Decision

_AT_ONCE = 10


def keys_of(history: History, decision: Decision) -> list[list[str]]:
    """The keys that go, in groups: each is gone before the next is begun, so that a deletion which
    is cut off leaves no base backup without its WAL.
    """
    start = history.place.partition("//")[2].partition("/")[2]
    bases = [f"{start}base_{base.stamp}" for base in decision.bases]
    return [
        [f"{base}.json" for base in bases],
        [f"{start}{name}" for base in decision.bases for name in _objects(base)],
        [segment.key for segment in decision.segments],
        [f"{start}mark_{mark.name}_{stamp(mark.time)}.json" for mark in decision.marks],
    ]


def _objects(base: Base) -> tuple[str, ...]:
    return base.object_names or (base.object_name or f"base_{base.stamp}.tar.gz",)


def delete(
    objects: Objects, groups: Sequence[Sequence[str]], show: Callable[[str, int, int], None]
) -> None:
    """Delete objects; `show` is told that it is at it: a listing has no sizes to count.

    Raises the first SwarmkeepError that is met; what is left is found by the next prune.
    """

    def remove(key: str) -> SwarmkeepError | None:
        try:
            with objects.translated(f"deleting {key}", right="s3:DeleteObject"):
                objects.client.delete_object(Bucket=objects.name, Key=key)
        except SwarmkeepError as error:
            return error
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for group in groups:
            for place in range(0, len(group), 10 * _AT_ONCE):
                for error in pool.map(remove, group[place : place + 10 * _AT_ONCE]):
                    if error:
                        raise error
                show("deleting WAL", 0, 0)
