"""The names of base backups, segments and marks in the bucket. Pure.

Everything of one cluster (PostgreSQL's system identifier) lies in `wal/<cluster>/`, with the
project's name and a slash before it where the project has one:

    <timeline and log, 16 hex digits>/<segment, 24>_<until>_<MD5>.gz
    base_<start>.tar.gz   base_<start>.json   mark_<name>_<time>.json

with .age behind .gz where it is encrypted, and 8 digits before that where it was encrypted anew for
others: of a segment the beginning of the MD5 that it had before.

`until` is the time up to which every commit is in this segment or before it. The MD5 is the
object's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

_SEGMENT = re.compile(
    r"[0-9A-F]{16}/([0-9A-F]{24})_(\d{8}T\d{6}Z)_([0-9a-f]{32})\.gz(?:(?:\.([0-9a-f]{8}))?(\.age))?",
    re.ASCII,
)
_BASE = re.compile(r"base_(\d{8}T\d{6}Z)\.(json|tar\.gz(?:(?:\.[0-9a-f]{8})?\.age)?)", re.ASCII)
_MARK = re.compile(r"mark_([A-Za-z0-9][A-Za-z0-9._-]{0,39})_(\d{8}T\d{6}Z)\.json", re.ASCII)
_CLUSTER = re.compile(r"\d{1,20}", re.ASCII)
_FORMAT = "%Y%m%dT%H%M%SZ"

LOG_BYTES = 2**32
"""Segments are numbered within logs of 4 GB (src/include/access/xlog_internal.h)."""


@dataclass(frozen=True)
class Segment:
    """A segment of the WAL as a listing shows it."""

    name: str
    until: datetime
    md5: str
    etag: str
    key: str
    made_of: str = ""
    """The beginning of the MD5 of the object that this one was encrypted anew from."""

    @property
    def encrypted(self) -> bool:
        """Whether it is."""
        return self.key.endswith(".age")

    def same_content(self, other: Segment) -> bool:
        """Whether one of two objects of a segment was made of the other, or both of a third one."""
        return (
            self.md5 == other.md5
            or bool(self.made_of and self.made_of in (other.md5[:8], other.made_of))
            or bool(other.made_of and other.made_of == self.md5[:8])
        )

    @property
    def intact(self) -> bool:
        """Whether the object is what was uploaded, as far as its ETag tells: it is the MD5 unless
        the object went up in parts or is encrypted with KMS.
        """
        return len(self.etag) != len(self.md5) or self.etag == self.md5


@dataclass(frozen=True)
class Mark:
    """A named moment: inv backup.mark."""

    name: str
    time: datetime


def folder(cluster: str, project: str) -> str:
    """What all keys of a cluster begin with: "wal/7712743237616046103/"."""
    return f"{clusters_folder(project)}{cluster}/"


def clusters_folder(project: str) -> str:
    """What the keys of all clusters begin with: "wal/"."""
    return f"{project and f'{project}/'}wal/"


def parse_time(text: str) -> datetime:
    """Given a time as in these names, return it. Raises ValueError."""
    return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)


def stamp(when: datetime) -> str:
    """Given a time, return it as in these names."""
    return when.astimezone(UTC).strftime(_FORMAT)


def is_cluster(text: str) -> bool:
    """Whether a folder's name is a system identifier."""
    return bool(_CLUSTER.fullmatch(text))


def parse_segment(name: str, etag: str, key: str) -> Segment | None:
    """Given a key below the cluster's folder, return the segment; None if it is none."""
    match = _SEGMENT.fullmatch(name)
    try:
        found = match and Segment(
            match[1], parse_time(match[2]), match[3], etag.strip('"'), key, match[4] or ""
        )
    except ValueError:
        return None
    return found or None


def parse_base(name: str) -> tuple[str, str] | None:
    """Given a key below the cluster's folder, return a base backup's time stamp and the part of it:
    "json", "tar.gz", or where it is encrypted "tar.gz.age" (with an id before .age where it was
    encrypted anew for other recipients).
    """
    match = _BASE.fullmatch(name)
    return (match[1], match[2]) if match else None


def parse_mark(name: str) -> Mark | None:
    """Given a key below the cluster's folder, return the mark; None if it is none."""
    match = _MARK.fullmatch(name)
    try:
        return Mark(match[1], parse_time(match[2])) if match else None
    except ValueError:
        return None


def next_segment(name: str, segment_bytes: int) -> str:
    """Given a segment's name, return that of the one after it on the same timeline."""
    log, number = int(name[8:16], 16), int(name[16:], 16) + 1
    if number >= LOG_BYTES // segment_bytes:
        log, number = log + 1, 0
    return f"{name[:8]}{log:08X}{number:08X}"
