"""The S3 side: what lies in the bucket, and reading it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fabfile.backup.newest_keys import GROUP_END, Found, Page, Search
from fabfile.backup.object_keys import (
    EPOCH,
    PARTS,
    Keys,
    files_state,
    moment,
)
from fabfile.backup.set_parsing import (
    parse_accepted,
    parse_files_state,
    parse_manifest,
    parse_proof,
    with_details,
)
from fabfile.backup.sets import FORMAT, BackupSet, FilesState, Manifest, Proof, divided
from fabfile.backup.verify import CLOCK_TOLERANCE, PREDECESSORS, Holding
from fabfile.base import age_encryption
from fabfile.base.errors import UnreachableError
from fabfile.config.backup import Backup
from fabfile.s3.connection import code_of
from fabfile.s3.objects import Objects, Part

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectTypeDef

    from fabfile.vault.backup_identity import Identity

_PAGES = 4
"""Listings that verify spends at most on finding more than the newest; then the manifest."""
_AT_ONCE = 10
"""Manifests and outcomes that are read side by side: as many connections as botocore keeps."""
_WINDOW = 8
"""The first listing starts this many times max_age ago: a daily backup and its predecessors."""
_FOREIGN = 100
"""Sets of other projects that are skipped at most."""
_FIRST, _TRIES = 40, 3
"""Objects and manifests that `oldest` looks at."""
_NOT_GROUPING = ("NotImplemented", "InvalidArgument", "InvalidRequest")


class Bucket(Objects):
    """The backups in one bucket."""

    def __init__(
        self,
        backup: Backup,
        project_id: str = "",
        find_identity: Callable[[], Identity | None] = lambda: None,
    ) -> None:
        super().__init__(backup)
        self.project_id = project_id
        """Our identity, by which sets of other projects are told; "" where it is not known."""
        self._find_identity = find_identity
        self._finding = threading.Lock()
        self._seen: dict[int, dict[str, Part]] = {}

    @cached_property
    def identity(self) -> Identity | None:
        """With which encrypted manifests and parts are read; None where none is at hand. Looked
        for where it is needed first. ConfigError where what is there is none.
        """
        with self._finding:
            return self._find_identity()

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

    def oldest(self, database: str) -> BackupSet | None:
        """The oldest complete set of ours with its manifest, among the first objects of a database.

        A listing, and a manifest or a few: None where the first sets are not ours, damaged, or
        failed a drill or a deep read.
        """
        keys = self.keys(database)
        self._seen = {}
        answer = self.list_page({"Prefix": keys.prefix, "MaxKeys": _FIRST})
        for item in answer.get("Contents", []):
            self._remember(keys, item)
        found = sorted(s for s, parts in self._seen.items() if {"manifest", "dump"} <= set(parts))
        for second in found[:_TRIES]:
            one = self._with_proofs(database, BackupSet(moment(second), dict(self._seen[second])))
            good = not one.flaw and all(proof.ok for proof in one.proofs.values())
            if good and not one.project.is_another(self.project_id):
                return one
        return None

    def latest(self, database: str, now: datetime, limit: int) -> Holding:
        """The newest `limit` sets of a database (0: all of them), without their manifests."""
        if not limit:
            return self._holding(database, self._search(database, now, span=0).everything())
        search = self._search(database, now, span=(limit + _WINDOW) * self.backup.max_age)
        return self._holding(database, search.newest(limit))

    def with_manifest(self, database: str, one: BackupSet) -> BackupSet:
        """Given a listed set, return it with its manifest, or with what is wrong with that."""
        text = self.small(one.parts["manifest"].key)
        try:
            if text is None:
                raise ValueError("its manifest was deleted while this ran")
            manifest = self._with_details(parse_manifest(text, database))
            return replace(one, manifest=manifest, damaged="").with_named_parts()
        except ValueError as error:
            return replace(one, manifest=None, damaged=str(error))

    def _with_details(self, manifest: Manifest) -> Manifest:
        """All of a manifest, as far as our identity can read it. Raises ValueError."""
        if not manifest.details or not self.identity:
            return manifest
        private = self.identity.private.reveal()
        try:
            return with_details(manifest, age_encryption.decrypt(manifest.details, private))
        except age_encryption.WrongIdentityError:
            return manifest
        except age_encryption.DamagedError as error:
            raise ValueError(f"the details of its manifest: {error}") from None

    def with_proofs(self, database: str, sets: Sequence[BackupSet]) -> list[BackupSet]:
        """Given listed sets, return them with their manifests and proofs, read side by side."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return list(pool.map(lambda one: self._with_proofs(database, one), sets))

    def last_drill(self, database: str) -> Proof | None:
        """The outcome of the last good drill of a database, whichever set it was of."""
        text = self.small(self.keys(database).drilled)
        proof = None if text is None else _proof(text)
        return None if proof and proof.project.is_another(self.project_id) else proof

    def accepted_cluster(self, database: str) -> str:
        """The cluster of a database that a person has accepted after another one; "" for none."""
        text = self.small(self.keys(database).accepted)
        try:
            return "" if text is None else parse_accepted(text)
        except ValueError:
            return ""

    def accept_cluster(self, database: str, cluster: str, before: str, who: str) -> None:
        """Have it known that another cluster than `before` is the right one."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        said = {"format": FORMAT, "cluster": cluster, "before": before, "who": who, "accepted": now}
        self.put(self.keys(database).accepted, said)

    def files_state(self, stack: str, node: str) -> FilesState | str | None:
        """What a node has recorded about its attachments, or what is wrong with that; None if
        it never recorded anything.
        """
        key = files_state(stack, node, self.backup.project)
        text = self.small(key)
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
        text = self.put(key, outcome)
        return replace(one, proofs={**one.proofs, part: _proof(text)})

    def _with_proofs(self, database: str, one: BackupSet) -> BackupSet:
        proofs = {}
        for name in ("deep", "drill"):
            if name in one.parts and (text := self.small(one.parts[name].key)) is not None:
                proofs[name] = _proof(text)
        return replace(self.with_manifest(database, one), proofs=proofs)

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
            answer = self.list_page(options | ({"Delimiter": GROUP_END} if grouped else {}))
        except UnreachableError as error:
            # Some S3-compatible stores group by "/" only. Then it takes more pages.
            if not grouped or code_of(error.__cause__) not in _NOT_GROUPING:
                raise
            answer = self.list_page(options)
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

    def _remember(self, keys: Keys, item: ObjectTypeDef) -> None:
        found = keys.parse(item["Key"])
        if found:
            second, name = found
            parts = self._seen.setdefault(second, {})
            if name in parts and parts[name].key != item["Key"]:
                # Encrypted anew, or an upload that was cut off: the manifest says which it is.
                parts[f"{name} {parts[name].key}"] = parts[name]
            parts[name] = Part(
                item["Key"], item["Size"], item["LastModified"].astimezone(UTC), item["ETag"]
            )


def _proof(text: bytes) -> Proof:
    """An outcome; one that cannot be read proves nothing."""
    try:
        return parse_proof(text)
    except ValueError as error:
        return Proof(False, "", 0.0, f"its outcome cannot be read: {error}")
