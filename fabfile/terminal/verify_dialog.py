"""What backup.verify looks at in one database, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import CheckFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from invoke.context import Context

    from fabfile.backup.bucket import Bucket
    from fabfile.backup.sets import BackupSet
    from fabfile.backup.verify import Holding
    from fabfile.base.check import Check
    from fabfile.config.inventory import Inventory


@dataclass(frozen=True)
class Verdict:
    """What verify has to say of one database."""

    database: str
    holding: Holding
    newest: BackupSet | None
    checks: Sequence[Check]
    now: datetime
    requests: int
    seconds: float
    bucket: str

    def text(self) -> str:
        """The checks as a table, and what they cost."""
        from fabfile.base.units import format_duration
        from fabfile.terminal import tables

        spent = f"{self.holding.place}: {self.requests} requests, {format_duration(self.seconds)}"
        return f"{tables.checks(self.checks)}\n{spent}"

    def data(self) -> dict[str, Any]:
        """The same for programs."""
        from fabfile.terminal.tables import checks_data

        more: dict[str, Any] = {
            "bucket": self.bucket,
            "place": self.holding.place,
            "database": self.database,
        }
        more |= as_data(self.newest, self.now) if self.newest else {"key": None}
        more |= {"requests": self.requests, "seconds": round(self.seconds, 3)}
        return checks_data(self.checks, **more)

    def error(self) -> CheckFailedError | None:
        """What to end with; None if every check passed."""
        failed = [check for check in self.checks if not check.ok]
        if not failed:
            return None
        names = ", ".join(check.name for check in failed)
        return CheckFailedError(
            f"the backup of {self.database} in {self.holding.place} failed {len(failed)} of "
            f"{len(self.checks)} checks: {names}",
            hint=failed[0].hint,
        )


def look(
    ctx: Context, inventory: Inventory, bucket: Bucket, database: str, *, deep: bool
) -> Verdict:
    """Look at what the bucket holds of one database and judge it."""
    from dataclasses import replace
    from time import monotonic

    from fabfile.backup.verify import Expectations, judge, unaccepted
    from fabfile.backup.verify_files import judge_files
    from fabfile.config.project import Project

    started, before = monotonic(), bucket.requests
    now = datetime.now(UTC)
    backup = inventory.backup
    holding = bucket.newest(database, now)
    newest = holding.backups[0] if holding.backups else None
    read: Sequence[Check] = ()
    if deep and newest:
        from fabfile.terminal.deep_read_dialog import read_deep

        # First, since its outcome is one of the proofs that are judged.
        newest, read = read_deep(ctx, inventory, bucket, newest)
        holding = replace(holding, backups=(newest, *holding.backups[1:]))
    drill = bucket.last_drill(database) if backup.max_drill_age else None
    expected = Expectations(
        database,
        backup.max_age,
        backup.min_size,
        backup.max_drill_age,
        Project(inventory.project, bucket.project_id),
        # Only where it matters: it costs a request.
        bucket.accepted_cluster(database) if newest and unaccepted(newest, "") else "",
    )
    checks = judge(expected, holding, now, drill)
    if backup.files and database == inventory.postgres.database:
        nodes = [entry.node for entry in inventory.with_role("app")]
        states = {node: bucket.files_state(inventory.app.stack, node) for node in nodes}
        checks += judge_files(states, backup.max_age, now)
    return Verdict(
        database,
        holding,
        newest,
        [*checks, *read],
        now,
        bucket.requests - before,
        monotonic() - started,
        bucket.name,
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
        "flaw": one.flaw,
        "proofs": {
            name: {k: v for k, v in vars(proof).items() if k != "project"}
            for name, proof in one.proofs.items()
        },
        "project": vars(one.project),
        # Without the rows of every table: there may be thousands of tables.
        "manifest": {k: v for k, v in one.manifest.data.items() if k != "rows"}
        if one.manifest
        else None,
    }
