"""Which set is meant, and under which name it comes back. Pure.

Times are UTC, as in the names of sets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from fabfile.backup.object_keys import PARTS, Keys, moment, second_of, stamp
from fabfile.backup.sets import BackupSet
from fabfile.backup.trust import doubt
from fabfile.base.errors import CheckFailedError, ConfigError
from fabfile.base.units import parse_duration

LONGEST_NAME = 63
"""Bytes of a name that PostgreSQL keeps (NAMEDATALEN - 1)."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_OWN = ("postgres", "template0", "template1")
_PASSING = "swarmkeep_restoring_"
"""What names of unfinished databases start with; restore-pg.sh drops what is called so."""
_LISTED = "inv backup.list shows which sets there are"


def time_of(text: str, now: datetime, flag: str = "--before") -> datetime:
    """Given "2026-11-22", "2026-11-22T02:15Z" or "3d" (so long ago), return the time.

    A day means its beginning, a time without a zone is UTC. Raises ConfigError.
    """
    try:
        return now - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(
            f"{flag} {text}: want a time such as 2026-11-22, 2026-11-22T02:15Z or 3d (days ago)"
        ) from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def set_of(text: str, database: str) -> datetime:
    """Given a set's time stamp or the key of one of its parts, return its time.

    The key may stand alone, or with its folder, or as s3://bucket/... Raises ConfigError.
    """
    name = text.strip().rpartition("/")[2]
    keys = Keys(database)
    second = second_of(name.removeprefix("backup_"))
    if second is None:
        parsed = keys.parse(keys.folder + name)
        second = parsed[0] if parsed else None
    folder = text.strip().removesuffix(name)
    if second is None or not f"/{keys.folder}".endswith(folder and f"/{_below_bucket(folder)}"):
        raise ConfigError(
            f"--key {text}: is no backup of database {database}",
            hint=f"want a set such as {stamp(0)}, or a key such as "
            f"{keys.prefix}{stamp(0)}{PARTS['manifest']}; {_LISTED}",
        )
    return moment(second)


def usable(found: BackupSet | None, place: str, what: str) -> BackupSet:
    """Given what was found for `what` (in words), return it.

    Raises CheckFailedError if there is nothing, or if it is damaged or incomplete.
    """
    if found is None:
        raise CheckFailedError(f"{place} has no backup {what}".strip(), hint=_LISTED)
    if found.flaw:
        raise CheckFailedError(
            f"set {found.stamp} cannot be restored: {found.flaw}",
            hint="take the one before it: "
            f"--before {found.timestamp:%Y-%m-%dT%H:%M:%SZ}; {_LISTED}",
        )
    return found


def newest_proven(
    sets: Sequence[BackupSet], place: str, min_size: int
) -> tuple[BackupSet, list[tuple[BackupSet, str]]]:
    """Given sets newest first, with their proofs, return the first that nothing speaks against,
    and the newer ones that were passed over, each with the reason.

    Raises CheckFailedError if there is none.
    """
    passed: list[tuple[BackupSet, str]] = []
    for place_in_line, one in enumerate(sets):
        why = doubt(one, sets[place_in_line + 1 :], min_size)
        if not why:
            return one, passed
        passed.append((one, why))
    raise CheckFailedError(
        f"{place} has no set that passes the checks" if passed else f"{place} has no backup",
        hint=f"{_LISTED}; to restore one all the same, name it with --key" if passed else _LISTED,
        details=tuple(f"{one.stamp}: {why}" for one, why in passed),
    )


def new_name(database: str, word: str, when: datetime) -> str:
    """A database name that shows what it is: "nocodb_20261122t021500z", with the word between."""
    end = "_".join(["", *([word] if word else []), f"{when:%Y%m%dt%H%M%Sz}"])
    return database[: LONGEST_NAME - len(end)] + end


def check_name(flag: str, name: str) -> str:
    """Given a flag and a database name, return the name. Raises ConfigError for a bad one."""
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{flag} {name}: want up to {LONGEST_NAME} letters, digits and any of '_.-', "
            "the first a letter or '_'"
        )
    if name in _OWN:
        raise ConfigError(f"{flag} {name}: is PostgreSQL's own", hint="choose another name")
    if name.startswith(_PASSING):
        raise ConfigError(
            f"{flag} {name}: names that begin with {_PASSING} are those of unfinished restores",
            hint="choose another name",
        )
    return name


def _below_bucket(folder: str) -> str:
    """A folder without s3://bucket/ before it."""
    return re.sub(r"^s3://[^/]+/", "", folder)
