"""The names of a database's objects in the bucket, and the times in them. Pure.

One run of the backup makes one set: objects whose names share a time stamp,
`postgres/<database>/backup_<YYYYMMDDTHHMMSSZ>.<part>`, with the project's name and a slash before
it where the project has one. Keys of one database sort by time,
which is what lets backup/newest_keys.py find the newest without listing the rest. The manifest is
uploaded last: where it lies, the set is complete. Times are whole seconds since 1970, UTC.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DAY = 86400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - EPOCH).total_seconds()) + 1
"""The first second no key can carry."""

PARTS = {
    # With .age behind it where it is encrypted.
    "dump": ".dump.gz",
    "globals": ".globals.sql.gz",
    "manifest": ".manifest.json",
    "deep": ".deep.json",
    "drill": ".drill.json",
}
"""What belongs to a set, and how it ends. The last two are written later: the outcome of having
read the set completely, and of having restored it."""


def files_folder(stack: str, project: str = "") -> str:
    """Where a stack's attachments are: in clear below data/, encrypted below encrypted/."""
    return f"{project and f'{project}/'}files/{stack}/"


def files_state(stack: str, node: str, project: str = "") -> str:
    """Where backup-files.sh on a node records that all its files are in the bucket."""
    return f"{files_folder(stack, project)}state/{node}.json"


_ENDS = {end: part for part, end in PARTS.items()}
_REKEYED = re.compile(r"(\.dump\.gz|\.globals\.sql\.gz)(\.[0-9a-f]{8})?\.age")
"""How encrypted parts end; with an id of the recipients if they were encrypted anew for others."""
_DAY = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)


def stamp(second: int) -> str:
    """Given seconds since 1970, return the time as names of sets carry it."""
    return f"{moment(second):%Y%m%dT%H%M%SZ}"


def second_of(text: str) -> int | None:
    """Given a time stamp of a set, return its time; None if it is no such or no real date."""
    return _second(_STAMP.fullmatch(text))


def moment(second: int) -> datetime:
    """Given seconds since 1970, return the UTC time."""
    return EPOCH + timedelta(seconds=second)


@dataclass(frozen=True)
class Keys:
    """The object keys of one database of a project ("" for the one without a name)."""

    database: str
    project: str = ""

    @property
    def folder(self) -> str:
        """Where everything of this database lies: "postgres/nocodb/"."""
        return f"{self.project and f'{self.project}/'}postgres/{self.database}/"

    @property
    def accepted(self) -> str:
        """The key of what says which cluster a person has accepted after another one."""
        return f"{self.folder}cluster.json"

    @property
    def prefix(self) -> str:
        """What all keys of backups start with: "postgres/nocodb/backup_"."""
        return f"{self.folder}backup_"

    @property
    def drilled(self) -> str:
        """The key of the last good drill's outcome, whichever set it was of."""
        return f"{self.folder}drill.json"

    def part(self, second: int, part: str) -> str:
        """Given a time and the name of a part, return its key."""
        return f"{self.prefix}{stamp(second)}{PARTS[part]}"

    def of(self, second: int) -> str:
        """Given a time, return the key of the manifest of the set made then."""
        return self.part(second, "manifest")

    def parse(self, key: str) -> tuple[int, str] | None:
        """Given a key, return its set's time and its part; None if it is of no set."""
        if not key.startswith(self.prefix):
            return None
        name, dot, end = key[len(self.prefix) :].partition(".")
        ending = dot + end
        if match := _REKEYED.fullmatch(ending):
            ending = match[1]
        part, second = _ENDS.get(ending), second_of(name)
        return None if part is None or second is None else (second, part)

    def day(self, group: str) -> int | None:
        """Given a day's common start of keys ("...backup_20261122T"), return its midnight."""
        if not group.startswith(self.prefix):
            return None
        return _second(_DAY.fullmatch(group[len(self.prefix) :].removesuffix("T")))

    def day_start(self, second: int) -> str:
        """Given a time, return what sorts before every key of its day and after the day before."""
        return f"{self.prefix}{moment(second):%Y%m%d}"

    def second_start(self, second: int) -> str:
        """Given a time, return what sorts before its key and after every earlier key."""
        return f"{self.prefix}{stamp(second)}"

    def after(self, key: str) -> int:
        """Given any string, return the first time whose key sorts after it; END if none does."""
        return bisect_right(range(END), key, key=self.of)


def _second(match: re.Match[str] | None) -> int | None:
    if match is None:
        return None
    try:
        when = datetime(*map(int, match.groups()), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        return None
    second = int((when - EPOCH).total_seconds())
    return second if second >= 0 else None
