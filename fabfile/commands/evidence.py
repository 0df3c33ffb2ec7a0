"""inv backup.evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.commands.backup import JSON_HELP
from fabfile.terminal.command import command, connected, open_bucket, read_inventory

AUDIT_LINES = 100_000


@command(
    help={
        "since": "how far back: 90d, or a day such as 2026-09-01 (default 90d)",
        "json": JSON_HELP,
    }
)
def evidence(
    ctx: Context, hosts: str | None = None, since: str = "90d", json: bool = False
) -> None:
    """Show what auditors ask for: backups, drills, who did what."""
    until = datetime.now(UTC).replace(microsecond=0)
    begin = _begin(since, until)
    inventory = read_inventory(hosts)

    from fabfile.monitoring.evidence import collect
    from fabfile.s3 import bucket_settings
    from fabfile.swarm import audit_log
    from fabfile.terminal import tables

    bucket = open_bucket(inventory)
    settings = bucket_settings.read(bucket)
    missing = None
    try:
        with connected(ctx, inventory) as fleet:
            audit = audit_log.read(fleet, AUDIT_LINES).entries
    except SwarmkeepError as error:
        missing, audit = error, None
    found = collect(inventory, bucket, settings, audit, begin, until)
    if json:
        print(tables.to_json(found))
    else:
        good = [one for one in found["backups"] if not one["flaw"]]
        restored = [one for one in found["drills"] if one["kind"] == "restored" and one["ok"]]
        print(f"from {found['since']} to {found['until']}, s3://{found['bucket']}")
        print(f"backups: {len(found['backups'])}, {len(good)} of them complete")
        print(f"drills: {len(restored)} restored, every row compared")
        for cluster in found["point_in_time"] or []:
            for window in cluster["windows"]:
                print(f"any second between {window['start']} and {window['end']}")
        entries = "not known" if audit is None else f"{len(found['audit'])} entries"
        print(f"audit log: {entries}")
        print(f"sha256: {found['sha256']['all']}")
    if missing:
        raise SwarmkeepError(
            f"the evidence lacks the audit log: {missing.message}", hint=missing.hint
        )


def _begin(since: str, until: datetime) -> datetime:
    from fabfile.base.units import parse_duration

    try:
        if len(since) == len("2026-09-01") and since[4:5] == "-":
            return datetime.fromisoformat(since).replace(tzinfo=UTC)
        return until - timedelta(seconds=parse_duration(since))
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--since {since}: want a time such as 90d, or a day such as 2026-09-01"
        ) from None
