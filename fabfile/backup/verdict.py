"""What verify has to say of one database: a look into the bucket, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from fabfile.backup import encryption_check
from fabfile.backup.sets import FilesState
from fabfile.backup.verify import Expectations, judge, unaccepted
from fabfile.backup.verify_files import judge_files
from fabfile.base.check import Check
from fabfile.base.units import format_duration
from fabfile.config.project import Project
from fabfile.wal.archive import WalArchive
from fabfile.wal.judge import WalExpectations
from fabfile.wal.judge import judge as judge_wal

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.sets import BackupSet, Proof
    from fabfile.backup.verify import Holding
    from fabfile.config.inventory import Inventory
    from fabfile.wal.chain import History, Window

    DeepRead = Callable[[BackupSet], tuple[BackupSet, Sequence[Check]]]


@dataclass(frozen=True)
class Verdict:
    """What verify has to say of one database. `seconds` and `requests` are what it cost."""

    database: str
    holding: Holding
    newest: BackupSet | None
    checks: Sequence[Check]
    now: datetime
    requests: int
    seconds: float
    bucket: str
    drill: Proof | None = None
    """The last good drill, whichever set it was of."""
    wal: History | None = None
    """Base backups and WAL; None where point-in-time recovery is off, or nothing is there."""
    oldest: BackupSet | None = None
    """The oldest set of ours that is complete, as far as the first ones of the bucket tell."""

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.ok]

    @property
    def loss_seconds(self) -> float | None:
        """Seconds since the newest commit that can be brought back: what would be lost now. None
        without a complete set.
        """
        if self.newest is None or self.newest.flaw:
            return None
        newest = self.newest.timestamp
        if self.window:
            newest = max(newest, self.window.end)
        return max(0.0, (self.now - newest).total_seconds())

    @property
    def window(self) -> Window | None:
        """The latest time span of which any second can be restored."""
        windows = self.wal.windows() if self.wal else []
        return windows[0] if windows else None

    def sentence(self) -> str:
        """Until when back, how much could be lost now, how long a recovery took when last tried."""
        if self.failed:
            names = ", ".join(check.name for check in self.failed)
            return f"{self.database}: do not rely on it: {len(self.failed)} checks failed ({names})"
        assert self.newest
        loss = format_duration(self.loss_seconds or 0.0)
        parts = [f"losing everything now would cost the last {loss}"]
        if self.oldest:
            back = min(self.oldest.timestamp, self.newest.timestamp)
            parts.insert(0, f"can go back to any backup since {back:%Y-%m-%d %H:%M} UTC")
        if self.window:
            start, end = self.window.start, self.window.end
            parts.insert(
                0,
                f"can restore any second from {start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
                if start.date() == end.date()
                else f"can restore any second from {start:%Y-%m-%d %H:%M:%S} "
                f"to {end:%Y-%m-%d %H:%M:%S} UTC",
            )
        if self.drill and self.drill.ok and self.drill.finished:
            took, when = format_duration(self.drill.seconds), self.drill.finished[:10]
            parts.append(f"restoring took {took} in the last drill ({when})")
        else:
            parts.append("how long restoring takes is not known: no drill is on record")
        return f"{self.database}: {'; '.join(parts)}"


def look(
    inventory: Inventory, bucket: Bucket, database: str, read_deep: DeepRead | None = None
) -> Verdict:
    """Look at what the bucket holds of one database and judge it.

    `read_deep` reads the newest set as a whole: its outcome is one of the proofs that are judged.
    Raises UnreachableError or ConfigError, as the bucket does.
    """
    started, before = monotonic(), bucket.requests
    now = datetime.now(UTC)
    backup = inventory.backup
    holding = bucket.newest(database, now)
    newest = holding.backups[0] if holding.backups else None
    read: Sequence[Check] = ()
    if read_deep and newest:
        newest, read = read_deep(newest)
        holding = replace(holding, backups=(newest, *holding.backups[1:]))
    drill = bucket.last_drill(database) if newest or backup.max_drill_age else None
    expected = Expectations(
        database,
        backup.max_age,
        inventory.min_size_of(database),
        backup.max_drill_age,
        Project(inventory.project, bucket.project_id),
        # Only where it matters: it costs a request.
        bucket.accepted_cluster(database) if newest and unaccepted(newest, "") else "",
        len(backup.recipients),
    )
    flaws = encryption_check.flaws_of_set(bucket, newest) if backup.recipients and newest else {}
    checks = judge(expected, holding, now, drill, flaws)
    for of, name in inventory.files_of(database).items():
        nodes = [entry.node for entry in inventory.with_role("app")]
        states = {node: bucket.files_state(of, node) for node in nodes}
        checks += judge_files(states, backup.max_age, now, name)
        if backup.recipients:
            recorded = [one for one in states.values() if isinstance(one, FilesState)]
            checks.append(encryption_check.files_encrypted(bucket, of, recorded, name))
    oldest = bucket.oldest(database) if newest else None
    history = wal_history(bucket, newest) if backup.pitr else None
    if backup.pitr:
        wal_expected = WalExpectations(backup.wal_tick, backup.max_base_age, backup.max_drill_age)
        checks += judge_wal(wal_expected, history, now)
        if backup.recipients and history:
            found = encryption_check.flaws_of_wal(bucket, history)
            checks.append(
                encryption_check.encrypted("wal encrypted", len(backup.recipients), found)
            )
    return Verdict(
        database,
        holding,
        newest,
        [*checks, *read],
        now,
        bucket.requests - before,
        monotonic() - started,
        bucket.name,
        drill,
        history,
        oldest,
    )


def wal_history(bucket: Bucket, newest: BackupSet | None) -> History | None:
    """Base backups and WAL of the cluster of the newest set; where that says nothing, of the one
    cluster there is. None if there is nothing.

    Raises UnreachableError or ConfigError.
    """
    archive = WalArchive(bucket, bucket.project_id)
    cluster = newest.manifest.cluster if newest and newest.manifest else ""
    if not cluster:
        every = archive.clusters()
        cluster = every[0] if len(every) == 1 else ""
    return archive.history(cluster) if cluster else None
