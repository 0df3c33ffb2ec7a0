"""The S3 side: what lies in the bucket, and reading it. Only importer of boto3 and botocore.

Everything here reads. The credentials are those of whoever runs the command, found where
AWS tools look for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fabfile.errors import UnreachableError
from fabfile.inventory import Backup
from fabfile.keys import EPOCH, Keys, moment
from fabfile.newest import GROUP_END, Found, Page, Search
from fabfile.refusals import failure, refusal
from fabfile.verify import CLOCK_TOLERANCE, PREDECESSORS, Holding, Landed

if TYPE_CHECKING:
    from botocore.response import StreamingBody  # type: ignore[import-untyped]
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ObjectTypeDef

BLOCK = 256 * 1024
"""Bytes read from an object at a time."""
_PAGES = 4
"""Listings that verify spends at most on finding more than the newest: with HEAD, 5 requests."""
_WINDOW = 8
"""The first listing starts this many times max_age ago: a daily backup and its predecessors."""
_BREAKS = 5
"""How often the reading of one object is taken up again after its connection broke."""
_NOT_GROUPING = ("NotImplemented", "InvalidArgument", "InvalidRequest")


class Bucket:
    """One bucket. `requests` counts every HTTP request to it, retries included."""

    def __init__(self, backup: Backup) -> None:
        self.requests = 0
        self._backup = backup
        self._objects: dict[str, Landed] = {}

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self._backup.bucket

    def place(self, database: str) -> str:
        """Where a database's backups lie, as people write it: "s3://bucket/postgres/db/"."""
        return f"s3://{self.name}/{Keys(database).folder}"

    def newest(self, database: str, now: datetime) -> Holding:
        """The newest backup of a database with its metadata, and some predecessors.

        At most 5 requests unless there are thousands of objects a day.
        Raises UnreachableError or ConfigError, as everything here.
        """
        search = self._search(database, now, span=_WINDOW * self._backup.max_age)
        holding = self._holding(database, search.newest(1 + PREDECESSORS, patience=_PAGES))
        if not holding.backups:
            return holding
        newest = self.look_at(holding.backups[0])
        return Holding(
            holding.place, (newest, *holding.backups[1:]), holding.future, holding.others
        )

    def latest(self, database: str, now: datetime, limit: int) -> Holding:
        """The newest `limit` backups of a database (0: all of them)."""
        if not limit:
            return self._holding(database, self._search(database, now, span=0).everything())
        search = self._search(database, now, span=(limit + _WINDOW) * self._backup.max_age)
        return self._holding(database, search.newest(limit))

    def look_at(self, landed: Landed) -> Landed:
        """Given a listed backup, return it with its metadata, as the object is now."""
        with self._translated(f"looking at {landed.key}"):
            head = self._client.head_object(Bucket=self.name, Key=landed.key)
        return Landed(
            landed.key,
            landed.timestamp,
            head["ContentLength"],
            head["LastModified"].astimezone(UTC),
            head["ETag"],
            head["Metadata"],
        )

    def read(self, landed: Landed) -> Iterator[bytes]:
        """The bytes of an object, block by block, once.

        A connection that breaks is taken up again where it broke, so long as it is still
        the same object.
        """
        place = 0
        breaks = 0
        while place < landed.size:
            body = self._open(landed, place)
            try:
                for block in self._blocks(body, landed.key):
                    place += len(block)
                    yield block
                if place < landed.size:
                    raise UnreachableError(
                        f"{self._where} ended {landed.key} after {place} of {landed.size} bytes",
                        hint="run again; if it stays, see what aws s3api head-object says of it",
                    )
            except UnreachableError:
                breaks += 1
                if breaks > _BREAKS:
                    raise

    def _open(self, landed: Landed, place: int) -> StreamingBody:
        """Ask for an object from a byte on, refusing one that has changed since it was listed."""
        rest: dict[str, Any] = {"Range": f"bytes={place}-"} if place else {}
        with self._translated(f"reading {landed.key}"):
            answer = self._client.get_object(
                Bucket=self.name, Key=landed.key, IfMatch=landed.etag, **rest
            )
        if place and not answer.get("ContentRange", "").startswith(f"bytes {place}-"):
            raise UnreachableError(
                f"{self._where} broke off {landed.key} and cannot go on from byte {place}",
                hint="run again, over a better connection",
            )
        return answer["Body"]

    def _blocks(self, body: StreamingBody, key: str) -> Iterator[bytes]:
        with body:
            while True:
                with self._translated(f"reading {key}"):
                    block = body.read(BLOCK)
                if not block:
                    return
                yield block

    def _search(self, database: str, now: datetime, *, span: int) -> Search:
        keys = Keys(database)
        second = int((now - EPOCH).total_seconds())

        def page(start_after: str, *, grouped: bool) -> Page:
            return self._page(keys, start_after, grouped=grouped)

        return Search(page, keys, now=second + CLOCK_TOLERANCE, first=second - span)

    def _holding(self, database: str, found: Found) -> Holding:
        keys = Keys(database)
        return Holding(
            self.place(database),
            tuple(self._objects[keys.of(second)] for second in found.seconds),
            tuple(self._objects[keys.of(second)] for second in found.future),
            found.others,
        )

    def _page(self, keys: Keys, start_after: str, *, grouped: bool) -> Page:
        options = {"Prefix": keys.prefix, "StartAfter": start_after}
        try:
            answer = self._list(options | ({"Delimiter": GROUP_END} if grouped else {}))
        except UnreachableError as error:
            # Some S3-compatible stores group by "/" only. Then it takes more pages.
            if not grouped or _code(error.__cause__) not in _NOT_GROUPING:
                raise
            answer = self._list(options)
        names = []
        for item in answer.get("Contents", []):
            names.append(item["Key"])
            self._remember(keys, item)
        return Page(
            tuple(names),
            tuple(group["Prefix"] for group in answer.get("CommonPrefixes", [])),
            answer["IsTruncated"],
            # A store that ignores the delimiter shows keys that should be inside groups.
            grouped and not any(GROUP_END in name.removeprefix(keys.prefix) for name in names),
        )

    def _list(self, options: dict[str, Any]) -> ListObjectsV2OutputTypeDef:
        with self._translated(f"listing {options['Prefix']}*"):
            answer = self._client.list_objects_v2(Bucket=self.name, **options)
            # Allowed, and rare: nothing found yet, and not at the end either.
            while answer["IsTruncated"] and not answer["KeyCount"]:
                token = answer["NextContinuationToken"]
                answer = self._client.list_objects_v2(
                    Bucket=self.name, **options, ContinuationToken=token
                )
            return answer

    def _remember(self, keys: Keys, item: ObjectTypeDef) -> None:
        second = keys.second(item["Key"])
        if second is not None:
            self._objects[item["Key"]] = Landed(
                item["Key"],
                moment(second),
                item["Size"],
                item["LastModified"].astimezone(UTC),
                item["ETag"],
            )

    @cached_property
    def _client(self) -> S3Client:
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        custom = bool(self._backup.endpoint_url)
        session = boto3.Session(
            profile_name=self._backup.profile or None, region_name=self._backup.region
        )
        client: S3Client = session.client(
            "s3",
            endpoint_url=self._backup.endpoint_url or None,
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 3},
                # Some S3-compatible stores refuse the checksums that boto3 adds by itself.
                # We have our own: the SHA-256 in the object's metadata.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"} if custom else {},
                user_agent_extra="swarmkeep",
            ),
        )
        client.meta.events.register("before-send.s3", self._count)
        return client

    def _count(self, **_: Any) -> None:
        self.requests += 1

    @property
    def _where(self) -> str:
        return f"bucket {self.name} at {self._backup.endpoint_url or 'AWS ' + self._backup.region}"

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        """Turn what botocore raises into our errors."""
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
        )

        try:
            yield
        except ClientError as error:
            raise refusal(
                self._where,
                action,
                _code(error),
                message=str(error.response.get("Error", {}).get("Message", "")),
                region=_region(error.response),
            ) from error
        except (BotoCoreError, OSError) as error:
            kind = "OSError" if isinstance(error, OSError) else type(error).__name__
            raise failure(self._where, action, kind, str(error)) from error


def _code(error: BaseException | None) -> str:
    """Given what botocore raised for an answer, return the answer's code."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _region(response: Any) -> str:
    """Given an answer of the bucket, return the region it names, or ""."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region", ""))
