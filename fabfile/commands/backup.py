"""inv backup.*: is there a good backup, and which ones are there?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from invoke.context import Context

from fabfile.commands.edge import command, read_inventory
from fabfile.errors import CheckFailedError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fabfile.verify import Check, Holding, Landed


@command(
    name="list",
    help={
        "limit": "how many to show, newest first (default 20, 0 for all)",
        "json": "print one JSON document instead of a table",
    },
)
def list_(_ctx: Context, hosts: str | None = None, limit: int = 20, json: bool = False) -> None:
    """List the backups in the bucket, newest first."""
    from fabfile.bucket import Bucket
    from fabfile.report import to_json

    if limit < 0:
        raise ConfigError(f"--limit {limit}: want a number of backups, or 0 for all of them")
    inventory = read_inventory(hosts)
    bucket = Bucket(inventory.backup)
    now = datetime.now(UTC)
    holding = bucket.latest(inventory.postgres.database, now, limit)
    backups = [*holding.future, *holding.backups]
    shown = backups[:limit] if limit else backups
    if json:
        document = {
            "bucket": bucket.name,
            "place": holding.place,
            "backups": [_as_data(landed, now) for landed in shown],
            "requests": bucket.requests,
        }
        print(to_json(document))
    else:
        print(_listing(holding, shown, now))


@command(
    help={
        "deep": "also read the newest backup completely: SHA-256, gzip stream, archive",
        "json": "print one JSON document instead of a table",
    }
)
def verify(ctx: Context, hosts: str | None = None, deep: bool = False, json: bool = False) -> None:
    """Check that the last backup has landed and is good."""
    from time import monotonic

    from fabfile.bucket import Bucket
    from fabfile.report import checks_json
    from fabfile.verify import Expectations, judge

    started = monotonic()
    inventory = read_inventory(hosts)
    database = inventory.postgres.database
    bucket = Bucket(inventory.backup)
    now = datetime.now(UTC)
    holding = bucket.newest(database, now)
    expected = Expectations(database, inventory.backup.max_age, inventory.backup.min_size)
    checks = judge(expected, holding, now)
    newest = holding.backups[0] if holding.backups else None
    if deep and newest:
        from fabfile.commands.deep_reading import deep_checks

        checks += deep_checks(ctx, inventory, bucket, newest)
    if json:
        more: dict[str, Any] = {"bucket": bucket.name, "place": holding.place, "database": database}
        more |= _as_data(newest, now) if newest else {"key": None}
        more |= {"requests": bucket.requests, "seconds": round(monotonic() - started, 3)}
        print(checks_json(checks, **more))
    else:
        print(_verdicts(checks, holding.place, bucket.requests, monotonic() - started))
    failed = [check for check in checks if not check.ok]
    if failed:
        names = ", ".join(check.name for check in failed)
        raise CheckFailedError(
            f"the backup of {database} in {holding.place} failed {len(failed)} of "
            f"{len(checks)} checks: {names}",
            hint=failed[0].hint,
        )


def _as_data(landed: Landed, now: datetime) -> dict[str, Any]:
    """Given a backup, return what programs want to know of it. Times are UTC, ISO 8601."""
    return {
        "key": landed.key,
        "time": f"{landed.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        "age_seconds": round((now - landed.timestamp).total_seconds()),
        "size": landed.size,
        "last_modified": f"{landed.last_modified:%Y-%m-%dT%H:%M:%SZ}",
    }


def _listing(holding: Holding, shown: Sequence[Landed], now: datetime) -> str:
    from fabfile.report import plain, table
    from fabfile.units import format_size

    lines = []
    if shown:
        rows = [
            [
                f"{landed.timestamp:%Y-%m-%d %H:%M:%S}",
                _age(landed, now),
                format_size(landed.size),
                plain(landed.key),
            ]
            for landed in shown
        ]
        lines.append(table(["time (UTC)", "age", "size", "key"], rows))
    else:
        lines.append(f"no backup in {holding.place}")
    if holding.others:
        lines.append(f"not listed: what is no backup, such as {plain(holding.others[0])}")
    return "\n".join(lines)


def _age(landed: Landed, now: datetime) -> str:
    from fabfile.units import format_duration

    seconds = (now - landed.timestamp).total_seconds()
    return format_duration(seconds) if seconds >= 0 else f"in {format_duration(-seconds)}"


def _verdicts(checks: Sequence[Check], place: str, requests: int, seconds: float) -> str:
    from fabfile import report
    from fabfile.units import format_duration

    spent = f"{place}: {requests} requests, {format_duration(seconds)}"
    return f"{report.checks(checks)}\n{spent}"
