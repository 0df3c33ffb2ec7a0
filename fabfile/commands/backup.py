"""inv backup.*: is there a good backup, and which ones are there?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import command, open_bucket, read_inventory, show_error
from fabfile.terminal.identity_dialog import IDENTITY_HELP

if TYPE_CHECKING:
    from pathlib import Path

    from fabfile.backup.bucket import Bucket
    from fabfile.backup.sets import BackupSet
    from fabfile.backup.verdict import DeepRead
    from fabfile.backup.verify import Holding
    from fabfile.config.inventory import Inventory


DATABASE_HELP = "only this one of the databases in hosts.yaml"
JSON_HELP = "print one JSON document instead of a table"


@command(
    name="list",
    help={
        "limit": "how many to show of each database, newest first (default 20, 0 for all)",
        "database": DATABASE_HELP,
        "json": JSON_HELP,
    },
)
def list_(
    _ctx: Context,
    hosts: str | None = None,
    limit: int = 20,
    database: str = "",
    json: bool = False,
) -> None:
    """List the backups in the bucket and how far each is proven."""
    from dataclasses import replace

    from fabfile.backup.verdict import wal_history
    from fabfile.terminal import verify_dialog, wal_listing
    from fabfile.terminal.tables import to_json

    if limit < 0:
        raise ConfigError(f"--limit {limit}: must be a number of backups, or 0 for all")
    inventory = read_inventory(hosts)
    bucket = open_bucket(inventory)
    now = datetime.now(UTC)
    documents = []
    for name in chosen_databases(inventory, database):
        holding = bucket.latest(name, now, limit)
        every = [*holding.future, *holding.backups]
        shown = bucket.with_proofs(name, every[:limit] if limit else every)
        documents.append(
            {
                "bucket": bucket.name,
                "place": holding.place,
                "database": name,
                "backups": [verify_dialog.as_data(one, now) for one in shown],
                "requests": bucket.requests,
            }
        )
        if not json:
            print(_listing(replace(holding, backups=tuple(shown)), now, bucket.project_id))
    wal = None
    if inventory.backup.pitr:
        newest = bucket.newest(inventory.postgres.database, now).backups
        wal = wal_history(bucket, newest[0] if newest else None)
        if not json:
            print(wal_listing.text(wal, now))
    if json:
        document = documents[0] if len(documents) == 1 else {"databases": documents}
        print(to_json(document | ({"wal": wal_listing.data(wal)} if wal else {})))


@command(
    notifies="backup.verify",
    help={
        "deep": "also read the newest set completely: SHA-256, gzip streams, archive",
        "database": DATABASE_HELP,
        "json": JSON_HELP,
        "prom": "also write the verdict as metrics into this .prom file",
        "notify": "tell the addresses of notify in hosts.yaml",
        "identity": IDENTITY_HELP,
    },
)
def verify(
    ctx: Context,
    hosts: str | None = None,
    deep: bool = False,
    database: str = "",
    json: bool = False,
    prom: str = "",
    notify: bool = False,  # noqa: ARG001 - what `notifies` looks at
    identity: str = "",
) -> None:
    """Check that the last backup has landed and is good."""
    from fabfile.backup.verdict import look
    from fabfile.terminal import verify_dialog
    from fabfile.terminal.tables import to_json

    inventory = read_inventory(hosts)
    file = metrics_file(prom)
    bucket = open_bucket(inventory, identity)
    verdicts = []
    for name in chosen_databases(inventory, database):
        verdicts.append(look(inventory, bucket, name, _deep_reader(ctx, inventory, bucket, deep)))
        if not json:
            print(verify_dialog.text(verdicts[-1]))
    if json:
        documents = [verify_dialog.data(verdict) for verdict in verdicts]
        everything = {"ok": all(d["ok"] for d in documents), "databases": documents}
        print(to_json(documents[0] if len(documents) == 1 else everything))
    if file:
        from fabfile.monitoring.metrics import write_verify

        write_verify(file, inventory, verdicts)
    errors = [error for verdict in verdicts if (error := verify_dialog.error(verdict))]
    for error in errors[:-1]:
        show_error(error)
    if errors:
        raise errors[-1]


def _deep_reader(ctx: Context, inventory: Inventory, bucket: Bucket, deep: bool) -> DeepRead | None:
    if not deep:
        return None
    from fabfile.terminal.deep_read_dialog import read_deep

    return lambda newest: read_deep(ctx, inventory, bucket, newest)


def metrics_file(prom: str) -> Path | None:
    """Given the --prom flag, return the file to write, if any. Raises ConfigError."""
    from fabfile.monitoring.metrics import target

    return target(prom) if prom else None


@command(
    name="accept",
    help={"database": DATABASE_HELP, "yes": "do not ask"},
)
def accept_cluster(
    _ctx: Context, hosts: str | None = None, database: str = "", yes: bool = False
) -> None:
    """Accept that the newest backup is of another cluster."""
    from fabfile.backup.verify import unaccepted
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import ask

    inventory = read_inventory(hosts)
    bucket = open_bucket(inventory)
    for name in chosen_databases(inventory, database):
        holding = bucket.newest(name, datetime.now(UTC))
        newest = holding.backups[0] if holding.backups else None
        before = unaccepted(newest, bucket.accepted_cluster(name)) if newest else ""
        if newest is None or newest.manifest is None or not before:
            print(f"{holding.place}: nothing to accept")
            continue
        cluster = newest.manifest.cluster
        said = f"{name}: set {newest.stamp} is of cluster {cluster}, those before of {before}"
        ask(f"{said}. Is the new one right?", yes=yes, refusal=said)
        bucket.accept_cluster(name, cluster, before, operator.find().who)
        print(f"accepted: {name} is cluster {cluster} from now on; next: inv backup.verify")


def chosen_databases(inventory: Inventory, database: str) -> tuple[str, ...]:
    """Given the --database flag, return which databases are meant. Raises ConfigError."""
    known = inventory.postgres.databases
    if database and database not in known:
        raise ConfigError(
            f"--database {database}: pg_db in hosts.yaml does not name it",
            hint=f"it names: {', '.join(known)}",
        )
    return (database,) if database else known


def _listing(holding: Holding, now: datetime, project_id: str) -> str:
    from fabfile.backup.verify import how_far
    from fabfile.base.units import format_size
    from fabfile.terminal.tables import plain, table

    lines = []
    encrypted = any(one.recipients for one in holding.backups)
    if holding.backups:
        rows = [
            [
                plain(one.stamp),
                f"{one.timestamp:%Y-%m-%d %H:%M:%S}",
                age_of(one, now),
                format_size(one.size),
                *([plain(", ".join(one.recipients) or "clear")] if encrypted else []),
                plain(f"{_whose(one, project_id)}{how_far(one)}"),
            ]
            for one in holding.backups
        ]
        lines.append(holding.place)
        keys = ["keys"] if encrypted else []
        lines.append(table(["set", "time (UTC)", "age", "dump", *keys, "proven"], rows))
    else:
        lines.append(f"no backup in {holding.place}")
    for when in holding.incomplete[:3]:
        lines.append(f"not listed: parts of {when:%Y-%m-%d %H:%M:%S} UTC, which lack a manifest")
    if holding.others:
        lines.append(f"not listed: what is no backup, such as {plain(holding.others[0])}")
    return "\n".join(lines)


def _whose(one: BackupSet, project_id: str) -> str:
    """What is said of a set that is another project's; "" for ours."""
    return f"of {one.project}: " if one.project.is_another(project_id) else ""


def age_of(one: BackupSet, now: datetime) -> str:
    """How long ago a set was made, or in how long it will be, in words."""
    from fabfile.base.units import format_duration

    seconds = (now - one.timestamp).total_seconds()
    return format_duration(seconds) if seconds >= 0 else f"in {format_duration(-seconds)}"
