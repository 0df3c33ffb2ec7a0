"""Deleting backups from the bucket, and what keeps them there. For inv backup.prune.

A set goes with its manifest first: what is left of a deletion that was cut off has no manifest
and so counts as no backup. Objects are deleted one by one, since DeleteObjects wants a checksum
that many S3-compatible stores refuse.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from fabfile.backup.sets import BackupSet
from fabfile.base.errors import SwarmkeepError
from fabfile.s3.connection import Connection, Unsupported, code_of
from fabfile.s3.error_messages import DENIED

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import (
        GetObjectLegalHoldOutputTypeDef,
        GetObjectRetentionOutputTypeDef,
    )

AT_ONCE = 10
"""Sets that are deleted side by side: as many connections as botocore keeps."""
_NO_LOCK_ON_BUCKET = ("ObjectLockConfigurationNotFoundError",)
_NO_LOCK_ON_OBJECT = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError")
_ORDER = ("manifest", "dump", "globals", "deep", "drill")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Protection:
    """What the bucket does against deletion. `versioned`: a deletion only hides."""

    versioned: bool
    locked: bool
    """Whether it has Object Lock."""


@dataclass(frozen=True)
class Lock:
    """What keeps a set: a date until which it must stay, in a mode, and (or) a legal hold."""

    until: datetime | None
    mode: str
    legal_hold: bool

    def __str__(self) -> str:
        held = ["under a legal hold, which somebody must lift"] if self.legal_hold else []
        if self.until:
            held.insert(0, f"locked until {self.until:%Y-%m-%d %H:%M} UTC ({self.mode})")
        return ", ".join(held)


@dataclass(frozen=True)
class Removed:
    """What became of one set. `left` are the keys of it that are still there."""

    backup: BackupSet
    left: tuple[str, ...]
    error: SwarmkeepError | None = None


class Removal:
    """Deletes sets from one bucket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = connection.client
        self._name = connection.name
        self._stop = Event()

    def protection(self) -> Protection:
        """Ask what the bucket does against deletion; a store that cannot do it does not."""
        versioning = self._connection.ask(
            "versioning",
            "s3:GetBucketVersioning",
            lambda: self._client.get_bucket_versioning(Bucket=self._name).get("Status", ""),
        )
        lock = self._connection.ask(
            "Object Lock",
            "s3:GetBucketObjectLockConfiguration",
            lambda: self._client.get_object_lock_configuration(Bucket=self._name),
            absent=_NO_LOCK_ON_BUCKET,
        )
        # Suspended: what was written before is kept as an old version all the same.
        return Protection(
            versioned=versioning in ("Enabled", "Suspended"),
            locked=lock is not None and not isinstance(lock, Unsupported),
        )

    def locks(self, sets: Sequence[BackupSet], now: datetime) -> dict[datetime, Lock]:
        """Given sets in a bucket with Object Lock, return what keeps which of them."""
        found = self._side_by_side(lambda one: self._lock(one, now), sets)
        return {one.timestamp: lock for one, lock in zip(sets, found, strict=True) if lock}

    def remove(
        self, sets: Sequence[BackupSet], show: Callable[[str, int, int], None] | None = None
    ) -> list[Removed]:
        """Delete sets, each with its manifest first, and return what became of each.

        One that fails does not hold up the others; a missing right ends it. Ctrl-C lets
        those that were begun end. `show` is told what is done, bytes done and bytes in all.
        """
        total = sum(one.stored for one in sets)
        done = 0
        telling = threading.Lock()

        def remove(one: BackupSet) -> Removed:
            nonlocal done
            removed = self._remove(one)
            with telling:
                done += one.stored
                if show:
                    show("deleting", done, total)
            return removed

        return self._side_by_side(remove, sets)

    def _remove(self, one: BackupSet) -> Removed:
        keys = [one.parts[name].key for name in _ORDER if name in one.parts]
        keys += [part.key for part in one.extra]
        if self._stop.is_set():
            return Removed(one, tuple(keys))
        for place, key in enumerate(keys):
            try:
                with self._connection.translated(f"deleting {key}", right="s3:DeleteObject"):
                    self._client.delete_object(Bucket=self._name, Key=key)
            except SwarmkeepError as error:
                if code_of(error.__cause__) in DENIED:
                    self._stop.set()
                return Removed(one, tuple(keys[place:]), error)
        return Removed(one, ())

    def _lock(self, one: BackupSet, now: datetime) -> Lock | None:
        until, modes, held = None, set(), False
        for part in one.parts.values():
            kept, mode = self._retention(part.key)
            if kept and kept > now:
                until = max(until or kept, kept)
                modes.add(mode)
            held = held or self._legal_hold(part.key)
        return Lock(until, "/".join(sorted(modes)), held) if until or held else None

    def _retention(self, key: str) -> tuple[datetime | None, str]:
        def call() -> GetObjectRetentionOutputTypeDef:
            return self._client.get_object_retention(Bucket=self._name, Key=key)

        answer = self._ask_object(f"the retention of {key}", "s3:GetObjectRetention", call)
        found = answer["Retention"] if answer else {}
        until = found.get("RetainUntilDate")
        return (until.astimezone(UTC) if until else None), found.get("Mode", "")

    def _legal_hold(self, key: str) -> bool:
        def call() -> GetObjectLegalHoldOutputTypeDef:
            return self._client.get_object_legal_hold(Bucket=self._name, Key=key)

        answer = self._ask_object(f"the legal hold of {key}", "s3:GetObjectLegalHold", call)
        return answer is not None and answer["LegalHold"].get("Status") == "ON"

    def _ask_object(self, what: str, right: str, call: Callable[[], _T]) -> _T | None:
        answer = self._connection.ask(what, right, call, absent=_NO_LOCK_ON_OBJECT)
        return None if isinstance(answer, Unsupported) else answer

    def _side_by_side(self, act: Callable[[BackupSet], _T], sets: Sequence[BackupSet]) -> list[_T]:
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            try:
                return list(pool.map(act, sets))
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
