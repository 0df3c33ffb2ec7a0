"""The S3 side: what lies in the bucket, and reading it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fabfile.backup.newest_keys import GROUP_END, Found, Page, Search
from fabfile.backup.object_keys import EPOCH, PARTS, Keys, files_state, moment
from fabfile.backup.sets import (
    FORMAT,
    BackupSet,
    FilesState,
    Part,
    Proof,
    divided,
    parse_accepted,
    parse_files_state,
    parse_manifest,
    parse_proof,
)
from fabfile.backup.verify import CLOCK_TOLERANCE, PREDECESSORS, Holding
from fabfile.base.errors import UnreachableError
from fabfile.config.inventory import Backup
from fabfile.s3.connection import Connection, code_of

if TYPE_CHECKING:
    from botocore.response import StreamingBody  # type: ignore[import-untyped]
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ObjectTypeDef

BLOCK = 256 * 1024
"""Bytes read from an object at a time."""
_PAGES = 4
"""Listings that verify spends at most on finding more than the newest; then the manifest."""
_AT_ONCE = 10
"""Manifests and outcomes that are read side by side: as many connections as botocore keeps."""
_SMALL = 64 * 1024 * 1024
"""Bytes: no manifest is larger, so nothing larger is read as one."""
_WINDOW = 8
"""The first listing starts this many times max_age ago: a daily backup and its predecessors."""
_FOREIGN = 100
"""Sets of other projects that are skipped at most."""
_BREAKS = 5
"""How often the reading of one object is taken up again after its connection broke."""
_NOT_GROUPING = ("NotImplemented", "InvalidArgument", "InvalidRequest")


class Bucket(Connection):
    """The backups in one bucket."""

    def __init__(self, backup: Backup, project_id: str = "") -> None:
        super().__init__(backup)
        self.project_id = project_id
        """Our identity, by which sets of other projects are told; "" where it is not known."""
        self._seen: dict[int, dict[str, Part]] = {}

    def place(self, database: str) -> str:
        """Where a database's backups lie, as people write it: "s3://bucket/postgres/db/"."""
        return f"s3://{self.name}/{self.keys(database).folder}"

    def keys(self, database: str) -> Keys:
        """The object keys of a database."""
        return Keys(database, self.backup.project)

    def newest(self, database: str, now: datetime) -> Holding:
        """The newest set of a database with its manifest and proofs, and some predecessors.

        At most 5 requests unless there are thousands of objects a day, and one for each proof;
        more where the newest is another project's (those are in `foreign`, and in nothing else),
        or where it is not known which project we are.
        Raises UnreachableError or ConfigError, as everything here.
        """
        search = self._search(database, now, span=_WINDOW * self.backup.max_age)
        holding = self._holding(database, search.newest(1 + PREDECESSORS, patience=_PAGES))
        if not holding.backups:
            return holding
        newest = self._with_proofs(database, holding.backups[0])
        # Where we do not know who we are, all are looked at: whether they are of one project.
        known = self.project_id or not newest.project.id
        if known and not newest.project.is_another(self.project_id):
            return replace(holding, backups=(newest, *holding.backups[1:]))
        return self._own(database, holding, now)

    def _own(self, database: str, holding: Holding, now: datetime) -> Holding:
        """The same without other projects' sets, of which at most `_FOREIGN` are skipped."""
        listed = self.with_proofs(database, holding.backups)
        ours, foreign = divided(listed, self.project_id)
        if not ours:
            more = self._search(database, now, span=_FOREIGN * self.backup.max_age)
            listed = self.with_proofs(
                database, self._holding(database, more.newest(_FOREIGN)).backups
            )
            ours, foreign = divided(listed, self.project_id)
        return replace(holding, backups=ours[: 1 + PREDECESSORS], foreign=foreign)

    def before(self, database: str, when: datetime, *, anybodys: bool = False) -> BackupSet | None:
        """The newest set of a database made before a time, with its manifest; None without one.

        Of other projects' sets at most `_FOREIGN` are skipped, unless `anybodys` counts.
        """
        for _ in range(_FOREIGN):
            last = when - timedelta(seconds=CLOCK_TOLERANCE + 1)
            search = self._search(database, last, span=_WINDOW * self.backup.max_age)
            found = self._holding(database, search.newest(1)).backups
            if not found:
                return None
            one = self.with_manifest(database, found[0])
            if anybodys or not one.project.is_another(self.project_id):
                return one
            when = one.timestamp
        return None

    def latest(self, database: str, now: datetime, limit: int) -> Holding:
        """The newest `limit` sets of a database (0: all of them), without their manifests."""
        if not limit:
            return self._holding(database, self._search(database, now, span=0).everything())
        search = self._search(database, now, span=(limit + _WINDOW) * self.backup.max_age)
        return self._holding(database, search.newest(limit))

    def with_manifest(self, database: str, one: BackupSet) -> BackupSet:
        """Given a listed set, return it with its manifest, or with what is wrong with that."""
        text = self._small(one.parts["manifest"].key)
        try:
            if text is None:
                raise ValueError("its manifest was deleted while this ran")
            return replace(one, manifest=parse_manifest(text, database), damaged="")
        except ValueError as error:
            return replace(one, manifest=None, damaged=str(error))

    def with_proofs(self, database: str, sets: Sequence[BackupSet]) -> list[BackupSet]:
        """Given listed sets, return them with their manifests and proofs, read side by side."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return list(pool.map(lambda one: self._with_proofs(database, one), sets))

    def last_drill(self, database: str) -> Proof | None:
        """The outcome of the last good drill of a database, whichever set it was of."""
        text = self._small(self.keys(database).drilled)
        proof = None if text is None else _proof(text)
        return None if proof and proof.project.is_another(self.project_id) else proof

    def accepted_cluster(self, database: str) -> str:
        """The cluster of a database that a person has accepted after another one; "" for none."""
        text = self._small(self.keys(database).accepted)
        try:
            return "" if text is None else parse_accepted(text)
        except ValueError:
            return ""

    def accept_cluster(self, database: str, cluster: str, before: str, who: str) -> None:
        """Have it known that another cluster than `before` is the right one."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        said = {"format": FORMAT, "cluster": cluster, "before": before, "who": who, "accepted": now}
        self._put(self.keys(database).accepted, said)

    def files_state(self, stack: str, node: str) -> FilesState | str | None:
        """What a node has recorded about its attachments, or what is wrong with that; None if
        it never recorded anything.
        """
        key = files_state(stack, node, self.backup.project)
        text = self._small(key)
        if text is None:
            return None
        try:
            state = parse_files_state(text)
            if state.project.is_another(self.project_id):
                raise ValueError(f"is of {state.project}: two projects write there")
            return state
        except ValueError as error:
            return f"{key}: {error}"

    def record(self, one: BackupSet, part: str, outcome: Mapping[str, Any]) -> BackupSet:
        """Write an outcome ("deep" or "drill") next to a set, and return the set with it."""
        key = one.key.removesuffix(PARTS["manifest"]) + PARTS[part]
        text = self._put(key, outcome)
        return replace(one, proofs={**one.proofs, part: _proof(text)})

    def _put(self, key: str, content: Mapping[str, Any]) -> bytes:
        """Write an object of JSON and return its text."""
        text = json.dumps(content, indent=1).encode()
        with self.translated(f"writing {key}"):
            self.client.put_object(
                Bucket=self.name,
                Key=key,
                Body=text,
                ContentType="application/json",
                **_encryption(self.backup),
            )
        return text

    def read(self, part: Part) -> Iterator[bytes]:
        """The bytes of an object, block by block, once.

        A connection that breaks is taken up again where it broke, so long as it is still
        the same object.
        """
        place = 0
        breaks = 0
        while place < part.size:
            body = self._open(part, place)
            try:
                for block in self._blocks(body, part.key):
                    place += len(block)
                    yield block
                if place < part.size:
                    raise UnreachableError(
                        f"{self.where} ended {part.key} after {place} of {part.size} bytes",
                        hint="run again; if it stays, see what aws s3api head-object says of it",
                    )
            except UnreachableError:
                breaks += 1
                if breaks > _BREAKS:
                    raise

    def _with_proofs(self, database: str, one: BackupSet) -> BackupSet:
        proofs = {}
        for name in ("deep", "drill"):
            if name in one.parts and (text := self._small(one.parts[name].key)) is not None:
                proofs[name] = _proof(text)
        return replace(self.with_manifest(database, one), proofs=proofs)

    def _small(self, key: str) -> bytes | None:
        """The content of a small object; None if there is none."""
        try:
            with self.translated(f"reading {key}"):
                answer = self.client.get_object(Bucket=self.name, Key=key)
                with answer["Body"] as body:
                    content: bytes = body.read(_SMALL)
                    return content
        except UnreachableError as error:
            if code_of(error.__cause__) in ("NoSuchKey", "404"):
                return None
            raise

    def _open(self, part: Part, place: int) -> StreamingBody:
        """Ask for an object from a byte on, refusing one that has changed since it was listed."""
        rest: dict[str, Any] = {"Range": f"bytes={place}-"} if place else {}
        with self.translated(f"reading {part.key}"):
            answer = self.client.get_object(
                Bucket=self.name, Key=part.key, IfMatch=part.etag, **rest
            )
        if place and not answer.get("ContentRange", "").startswith(f"bytes {place}-"):
            raise UnreachableError(
                f"{self.where} broke off in {part.key} and cannot resume at byte {place}",
                hint="run again, over a better connection",
            )
        return answer["Body"]

    def _blocks(self, body: StreamingBody, key: str) -> Iterator[bytes]:
        with body:
            while True:
                with self.translated(f"reading {key}"):
                    block = body.read(BLOCK)
                if not block:
                    return
                yield block

    def _search(self, database: str, now: datetime, *, span: int) -> Search:
        keys = self.keys(database)
        # Of this search only: databases that are backed up together share their times.
        self._seen = {}
        second = int((now - EPOCH).total_seconds())

        def page(start_after: str, *, grouped: bool) -> Page:
            return self._page(keys, start_after, grouped=grouped)

        return Search(page, keys, now=second + CLOCK_TOLERANCE, first=second - span)

    def _holding(self, database: str, found: Found) -> Holding:
        def sets(seconds: Sequence[int]) -> tuple[BackupSet, ...]:
            return tuple(BackupSet(moment(second), dict(self._seen[second])) for second in seconds)

        return Holding(
            self.place(database),
            sets(found.seconds),
            sets(found.future),
            found.others,
            tuple(moment(second) for second in found.incomplete),
        )

    def _page(self, keys: Keys, start_after: str, *, grouped: bool) -> Page:
        options = {"Prefix": keys.prefix, "StartAfter": start_after}
        try:
            answer = self._list(options | ({"Delimiter": GROUP_END} if grouped else {}))
        except UnreachableError as error:
            # Some S3-compatible stores group by "/" only. Then it takes more pages.
            if not grouped or code_of(error.__cause__) not in _NOT_GROUPING:
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
        with self.translated(f"listing {options['Prefix']}*"):
            answer = self.client.list_objects_v2(Bucket=self.name, **options)
            # Allowed, and rare: nothing found yet, and not at the end either.
            while answer["IsTruncated"] and not answer["KeyCount"]:
                token = answer["NextContinuationToken"]
                answer = self.client.list_objects_v2(
                    Bucket=self.name, **options, ContinuationToken=token
                )
            return answer

    def _remember(self, keys: Keys, item: ObjectTypeDef) -> None:
        found = keys.parse(item["Key"])
        if found:
            second, name = found
            self._seen.setdefault(second, {})[name] = Part(
                item["Key"], item["Size"], item["LastModified"].astimezone(UTC), item["ETag"]
            )


def _encryption(backup: Backup) -> Any:
    """What an upload asks for, as the scripts do; nothing where that is left to the bucket."""
    asked = {"ServerSideEncryption": backup.encryption, "SSEKMSKeyId": backup.kms_key_id}
    return {name: value for name, value in asked.items() if value}


def _proof(text: bytes) -> Proof:
    """An outcome; one that cannot be read proves nothing."""
    try:
        return parse_proof(text)
    except ValueError as error:
        return Proof(False, "", 0.0, f"its outcome cannot be read: {error}")
