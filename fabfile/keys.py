"""The names of a database's objects in the bucket, and the times in them. Pure.

`postgres/<database>/backup_<YYYYMMDDTHHMMSSZ>.dump.gz`: keys of one database sort by
time, which is what lets newest.py find the newest without listing the rest. Times are
whole seconds since 1970, UTC.
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

_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)Z\.dump\.gz)?", re.ASCII)


def moment(second: int) -> datetime:
    """Given seconds since 1970, return the UTC time."""
    return EPOCH + timedelta(seconds=second)


@dataclass(frozen=True)
class Keys:
    """The object keys of one database."""

    database: str

    @property
    def folder(self) -> str:
        """Where everything of this database lies: "postgres/nocodb/"."""
        return f"postgres/{self.database}/"

    @property
    def prefix(self) -> str:
        """What all keys of backups start with: "postgres/nocodb/backup_"."""
        return f"{self.folder}backup_"

    def of(self, second: int) -> str:
        """Given a time, return the key of the dump made then."""
        return f"{self.prefix}{moment(second):%Y%m%dT%H%M%SZ}.dump.gz"

    def second(self, key: str) -> int | None:
        """Given a key, return its time; None if it is no dump's key or no real date."""
        return self._parse(key, groups=6)

    def day(self, group: str) -> int | None:
        """Given a day's common start of keys ("...backup_20261122T"), return its midnight."""
        return self._parse(group.removesuffix("T"), groups=3)

    def day_start(self, second: int) -> str:
        """Given a time, return what sorts before every key of its day and after the day before."""
        return f"{self.prefix}{moment(second):%Y%m%d}"

    def second_start(self, second: int) -> str:
        """Given a time, return what sorts before its key and after every earlier key."""
        return f"{self.prefix}{moment(second):%Y%m%dT%H%M%SZ}"

    def after(self, key: str) -> int:
        """Given any string, return the first time whose key sorts after it; END if none does."""
        return bisect_right(range(END), key, key=self.of)

    def _parse(self, text: str, *, groups: int) -> int | None:
        if not text.startswith(self.prefix):
            return None
        match = _STAMP.fullmatch(text, len(self.prefix))
        if match is None or match.lastindex != groups:
            return None
        year, month, day, hour, minute, sec = (int(part) for part in match.groups(default="0"))
        try:
            when = datetime(year, month, day, hour, minute, sec, tzinfo=UTC)
        except ValueError:
            return None
        second = int((when - EPOCH).total_seconds())
        return second if second >= 0 else None
