"""A backup as it lies in the bucket: a set of parts, its manifest, and how far it is proven. Pure.

Times are UTC, sizes are bytes. docs/backup.md describes the manifest and the outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fabfile.backup.object_keys import EPOCH, PARTS, stamp
from fabfile.base.errors import ConfigError
from fabfile.config.project import Project
from fabfile.s3.objects import Part

FORMAT = 1
"""The version of manifests and outcomes that is written and read here."""
RUNGS = ("landed", "complete", "deep-read", "drilled")
"""How far a set can be proven, each including the one before."""


NOBODYS = Project("", "")


@dataclass(frozen=True)
class Recorded:
    """What a manifest says about one part."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What backup-pg.sh recorded about a set when all its parts had been uploaded.

    `size` is what the database took on disk. `rows` maps each table (quoted, with its schema)
    to its exact number of rows in the snapshot that was dumped; None where counting is off.
    """

    tool: str
    database: str
    started: str
    seconds: int
    parts: Mapping[str, Recorded]
    server_version: str
    major: int
    size: int
    images: Mapping[str, str]
    rows: Mapping[str, int] | None
    data: Mapping[str, Any] = field(repr=False)
    """All of it, as it was written."""
    project: Project = NOBODYS
    """Whose it is; without an identity where it was made before there were projects."""
    cluster: str = ""
    """PostgreSQL's system identifier; "" where it was not recorded."""
    expected_cluster: str = ""
    """That of the sets before it, as far as a person has accepted it."""
    recipients: tuple[str, ...] = ()
    """The ids of the keys that its parts are encrypted for; none where they are not."""
    sealed: bool = False
    """Whether what names tables, roles and settings is encrypted in it."""
    details: bytes = b""
    """What only those with an identity may read: all of the manifest, encrypted."""


@dataclass(frozen=True)
class Proof:
    """The outcome of reading a set completely, or of restoring it in a drill."""

    ok: bool
    finished: str
    seconds: float
    reason: str = ""
    project: Project = NOBODYS


@dataclass(frozen=True)
class BackupSet:
    """One set in the bucket. `parts` are those that are there, by name (see keys.PARTS).

    `manifest` is None as long as nobody has read it, or where it is `damaged` (says how).
    `proofs` holds what was read of the outcomes "deep" and "drill".
    """

    timestamp: datetime
    parts: Mapping[str, Part]
    manifest: Manifest | None = None
    damaged: str = ""
    proofs: Mapping[str, Proof] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """Whether its manifest has every table's rows."""
        return self.manifest is not None and self.manifest.rows is not None

    @property
    def compared(self) -> bool:
        """Whether a restore compares its rows: its manifest has them, perhaps encrypted."""
        return self.counted or (self.manifest is not None and self.manifest.sealed)

    @property
    def stamp(self) -> str:
        """The time in its keys, such as "20261122T021500Z"."""
        return stamp(int((self.timestamp - EPOCH).total_seconds()))

    @property
    def key(self) -> str:
        """The manifest's key, by which a set is known."""
        return self.parts["manifest"].key

    @property
    def size(self) -> int:
        """Bytes of the dump; 0 where it is missing."""
        return self.parts["dump"].size if "dump" in self.parts else 0

    @property
    def extra(self) -> tuple[Part, ...]:
        """Objects that are there besides, under names of its parts: the manifest names others."""
        return tuple(part for name, part in self.parts.items() if name not in PARTS)

    def with_named_parts(self) -> BackupSet:
        """The same with the parts that its manifest names, where there are several of one."""
        if self.manifest is None or not self.extra:
            return self
        parts = dict(self.parts)
        by_key = {part.key: name for name, part in parts.items()}
        for name, recorded in self.manifest.parts.items():
            other = by_key.get(recorded.key, name)
            if other != name and name in parts:
                meant, not_meant = parts.pop(other), parts[name]
                parts |= {name: meant, f"{name} {not_meant.key}": not_meant}
        return replace(self, parts=parts)

    @property
    def stored(self) -> int:
        """Bytes of all its objects."""
        return sum(part.size for part in self.parts.values())

    @property
    def rows(self) -> int | None:
        """Rows of all its tables, by its manifest; None where they were not counted."""
        counted = self.manifest.rows if self.manifest else None
        return None if counted is None else sum(counted.values())

    @property
    def recipients(self) -> tuple[str, ...]:
        """The ids of the keys that it is encrypted for; none where it is not, or not known."""
        return self.manifest.recipients if self.manifest else ()

    @property
    def project(self) -> Project:
        """Whose it is, as far as its manifest was read and says so."""
        return self.manifest.project if self.manifest else NOBODYS

    @property
    def last_modified(self) -> datetime:
        """When the bucket received the manifest: then the set was complete."""
        return self.parts["manifest"].last_modified

    @property
    def flaw(self) -> str:
        """What is wrong with its parts, as far as sizes tell; "" if nothing is."""
        if self.manifest is None:
            return self.damaged or "its manifest has not been read"
        for name, recorded in self.manifest.parts.items():
            part = self.parts.get(name)
            if part is None:
                return f"{recorded.key} is missing"
            if part.key != recorded.key:
                return f"its manifest is of another set: it names {recorded.key}"
            if part.size != recorded.size:
                return f"{part.key} has {part.size} bytes, {recorded.size} were uploaded"
        return ""

    @property
    def rung(self) -> str:
        """How far it is proven: one of RUNGS, or "failed ..." where a proof failed."""
        if self.flaw:
            return RUNGS[0]
        for name, failed in (("drill", "failed drill"), ("deep", "failed deep read")):
            # A good drill of last month says nothing of a dump that cannot be read today.
            if name in self.proofs and not self.proofs[name].ok:
                return failed
        for name, rung in (("drill", RUNGS[3]), ("deep", RUNGS[2])):
            if name in self.proofs:
                return rung
        return RUNGS[1]


@dataclass(frozen=True)
class FilesState:
    """What backup-files.sh recorded when every file of a node was in the bucket."""

    finished: datetime
    files: int
    size: int
    project: Project = NOBODYS
    recipients: tuple[str, ...] = ()
    """The ids of the keys that new files are encrypted for."""


def divided(
    sets: Sequence[BackupSet], project_id: str
) -> tuple[tuple[BackupSet, ...], tuple[BackupSet, ...]]:
    """Given sets with their manifests, return ours and those of other projects.

    What names no project is ours; so is everything where it is not known which we are ("").
    """
    ours = tuple(one for one in sets if not one.project.is_another(project_id))
    return ours, tuple(one for one in sets if one.project.is_another(project_id))


def check_one_project(sets: Sequence[BackupSet], project_id: str, place: str) -> None:
    """Raise ConfigError if it is not known which project we are, and the sets are of several."""
    found = sorted({one.project.id for one in sets} - {""})
    if not project_id and len(found) > 1:
        raise ConfigError(
            f"{place} holds sets of {len(found)} projects: {', '.join(found)}; which of them this "
            "is, is not known",
            hint="set project_id in hosts.yaml (inv doctor shows it), or have the vault's password "
            "at hand",
        )
