"""Whether a set can be trusted for a restore. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fabfile.backup.sets import BackupSet
from fabfile.backup.verify import PREDECESSORS, SHRUNK_BELOW, Expectations, _shrunk, _size

_USERS = "public.nc_users_v2"
"""Who has signed up: empty in a NocoDB that has just begun, or begun anew."""


def doubt(one: BackupSet, predecessors: Sequence[BackupSet], min_size: int) -> str:
    """Given a set with manifest and proofs, say why it should not be restored unasked.

    "" if nothing speaks against it. `predecessors` are those before it, newest first.

    A dump much smaller than usual may be that of a database that had just been lost; one with
    far fewer rows than an earlier one had, too, for however many nights that went on.
    """
    if one.flaw:
        return one.flaw
    failed = next((proof for proof in one.proofs.values() if not proof.ok), None)
    if failed:
        return f"{one.rung}: {failed.reason}"
    expected = Expectations("", 0, min_size)
    checks = (_size(expected, one), _shrunk(one, predecessors[:PREDECESSORS]))
    said = next((check.detail for check in checks if not check.ok), "")
    return said or _emptied(one, predecessors)


def _emptied(one: BackupSet, predecessors: Sequence[BackupSet]) -> str:
    """Why a set's rows look like those of a database begun anew; "" if they do not.

    NocoDB's own tables have rows from its first start on: users and the rows in bases tell more.
    """
    if one.manifest is None or one.manifest.rows is None:
        return ""
    mine = one.manifest.rows
    older = [
        (other.stamp, other.manifest.rows)
        for other in predecessors
        if not other.flaw and other.manifest and other.manifest.rows is not None
    ]
    counts = [("rows", _all_rows)] + ([("rows in bases", _rows_in_bases)] if _USERS in mine else [])
    for stamp, rows in older:
        if mine.get(_USERS) == 0 < rows.get(_USERS, 0):
            return f"nobody has signed up in it, set {stamp} had {rows[_USERS]} users"
        for what, count in counts:
            if count(mine) < SHRUNK_BELOW * count(rows):
                return f"it has {count(mine)} {what}, set {stamp} had {count(rows)}"
    return ""


def _all_rows(rows: Mapping[str, int]) -> int:
    return sum(rows.values())


def _rows_in_bases(rows: Mapping[str, int]) -> int:
    return sum(count for table, count in rows.items() if not table.startswith("public."))
