"""Verdicts on point-in-time recovery on the db host, from what `wal-pg.sh check` said. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fabfile.backup.host_script import USAGE
from fabfile.base.check import Check
from fabfile.base.units import format_size

_ERROR = re.compile(r"\S+Z ERROR run=\S+ (.*)")
_LOOK = "inv backup.logs; docs/pitr.md, What to know"
_NAMES = ("superuser", "tablespaces", "slot", "cap", "other_slots", "spool", "summaries", "volumes",
          "folder")  # fmt: skip
_NOT_READ = {
    False: ("nobody reads slot swarmkeep: pg_receivewal does not run",
            "the next minute's run starts it"),
    True: ("another program reads slot swarmkeep: its WAL is not archived",
           "docker top shows who"),
}  # fmt: skip
NO_CONTAINER = 11
"""wal-pg.sh's exit code where the service has no container."""


def judge(said: tuple[int, str] | None, *, only_host: bool = True) -> list[Check]:
    """Check slot, spool, rights and disk, given exit code and output; None: not installed.

    `only_host`: whether the database can run on no other host.
    """
    if said is None:
        return [Check("wal", False, "wal-pg.sh is not installed", "inv backup.install")]
    code, text = said
    if code == NO_CONTAINER and not only_host:
        return [Check("wal", True, "the database does not run on this host")]
    rows = {words[0]: words[1:] for words in map(str.split, text.splitlines()) if words}
    if code or not all(rows.get(name) for name in _NAMES):
        return [_not_said(code, text)]
    return [_rights(rows), _slot(rows), _spool(rows), _replay_disk(rows)]


def _not_said(code: int, text: str) -> Check:
    errors = [match[1] for match in map(_ERROR.fullmatch, text.splitlines()) if match]
    if code == USAGE and not errors:
        detail = "wal-pg.sh is of an earlier version and cannot be asked"
        return Check("wal", False, detail, "inv backup.install")
    said = errors[-1] if errors else f"wal-pg.sh check said nothing of use (exit code {code})"
    message, _, advice = said.partition("; next: ")
    return Check("wal", False, message, advice or _LOOK)


def _rights(rows: Mapping[str, Sequence[str]]) -> Check:
    if rows["superuser"] != ["t"]:
        detail = "db.user is no superuser: it cannot write heartbeats or make the slot"
        return Check("wal rights", False, detail, "ALTER ROLE ... SUPERUSER, as the image makes it")
    if rows["tablespaces"] != ["0"]:
        detail = f"{rows['tablespaces'][0]} tablespaces of its own, which base backups leave out"
        return Check("wal rights", False, detail, "move what is in them to pg_default")
    return Check("wal rights", True, "the user may archive, and base backups hold everything")


def _slot(rows: Mapping[str, Sequence[str]]) -> Check:
    """A cap that is not there lets WAL fill PostgreSQL's disk when nobody archives."""
    state, *more = rows["slot"]
    cap = int(rows["cap"][0])
    if state == "none":
        return Check("wal slot", False, "slot swarmkeep is not there: no WAL is archived", _LOOK)
    status = more[0]
    if status in ("lost", "unreserved"):
        detail = f"slot swarmkeep is {status}: WAL is or will be missing"
        return Check("wal slot", False, detail, f"a new chain begins by itself; {_LOOK}")
    if state != "active":
        detail, hint = _NOT_READ[state == "foreign"]
        return Check("wal slot", False, detail, f"{hint}; {_LOOK}")
    if cap < 0:
        detail = "max_slot_wal_keep_size has no limit: WAL could fill PostgreSQL's disk"
        return Check("wal slot", False, detail, "the next minute's run sets it")
    behind = rows["summaries"][0]
    if behind != "-" and int(behind) > max(cap, 0):
        detail = f"PostgreSQL's WAL summarizer is {format_size(int(behind))} behind: it keeps WAL"
        return Check("wal slot", False, detail, "see PostgreSQL's log; SET summarize_wal = off")
    detail = f"read by pg_receivewal; PostgreSQL keeps at most {format_size(cap)} for it"
    if rows["other_slots"] != ["-"]:
        others = rows["other_slots"][0].replace(",", ", ")
        detail += f"; the same limit holds for the other slots: {others}"
    return Check("wal slot", True, detail)


def _spool(rows: Mapping[str, Sequence[str]]) -> Check:
    size, cap = int(rows["spool"][0]), int(rows["cap"][0])
    detail = f"{format_size(size)} in the spool"
    if cap > 0:
        detail += f", {format_size(cap)} at most"
    return Check(
        "wal spool",
        cap < 0 or size <= cap // 2,
        detail,
        f"it fills up where nothing is uploaded: {_LOOK}",
    )


def _replay_disk(rows: Mapping[str, Sequence[str]]) -> Check:
    """What a restore to a point in time asks for before it begins."""
    free, need = map(int, rows["volumes"])
    free_here, need_here = map(int, rows["folder"])
    return Check(
        "wal disk",
        free > need and free_here > need_here,
        f"a replay needs about {format_size(need)} for volumes, {format_size(free)} are free; "
        f"{format_size(need_here)} in backup.directory, {format_size(free_here)} are free",
        "make room, or a restore to a point in time will be refused",
    )
