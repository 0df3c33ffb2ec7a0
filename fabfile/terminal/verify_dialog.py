"""How backup.verify tells its verdict: as text, as data, as an error."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import CheckFailedError

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.backup.verdict import Verdict


def text(verdict: Verdict) -> str:
    """The checks as a table, what they mean, and what they cost."""
    from fabfile.base.units import format_duration
    from fabfile.terminal import tables

    spent = f"{verdict.requests} requests, {format_duration(verdict.seconds)}"
    cost = f"{verdict.holding.place}: {spent}"
    return f"{tables.checks(verdict.checks)}\n{verdict.sentence()}\n{cost}"


def data(verdict: Verdict) -> dict[str, Any]:
    """The same for programs."""
    from fabfile.terminal.tables import checks_data

    more: dict[str, Any] = {
        "bucket": verdict.bucket,
        "place": verdict.holding.place,
        "database": verdict.database,
    }
    more |= as_data(verdict.newest, verdict.now) if verdict.newest else {"key": None}
    more |= {
        "sentence": verdict.sentence(),
        "oldest": f"{verdict.oldest.timestamp:%Y-%m-%dT%H:%M:%SZ}" if verdict.oldest else None,
        "loss_seconds": None if verdict.loss_seconds is None else round(verdict.loss_seconds),
        "recovery_seconds": verdict.drill.seconds if verdict.drill and verdict.drill.ok else None,
        "requests": verdict.requests,
        "seconds": round(verdict.seconds, 3),
    }
    return checks_data(verdict.checks, **more)


def error(verdict: Verdict) -> CheckFailedError | None:
    """What to end with; None if every check passed."""
    failed = verdict.failed
    if not failed:
        return None
    names = ", ".join(check.name for check in failed)
    return CheckFailedError(
        f"the backup of {verdict.database} in {verdict.holding.place} failed {len(failed)} of "
        f"{len(verdict.checks)} checks: {names}",
        hint=failed[0].hint,
    )


def as_data(one: BackupSet, now: datetime) -> dict[str, Any]:
    """Given a backup, return what programs want to know of it. Times are UTC, ISO 8601."""
    return {
        "set": one.stamp,
        "key": one.key,
        "time": f"{one.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        "age_seconds": round((now - one.timestamp).total_seconds()),
        "size": one.size,
        "last_modified": f"{one.last_modified:%Y-%m-%dT%H:%M:%SZ}",
        "proven": one.rung,
        "recipients": list(one.recipients),
        "flaw": one.flaw,
        "proofs": {
            name: {k: v for k, v in vars(proof).items() if k != "project"}
            for name, proof in one.proofs.items()
        },
        "project": vars(one.project),
        # Without the rows of every table: there may be thousands of tables.
        "manifest": {k: v for k, v in one.manifest.data.items() if k not in ("rows", "details")}
        if one.manifest
        else None,
    }
