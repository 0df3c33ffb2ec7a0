"""inv backup.prune, its part about base backups and WAL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import SwarmkeepError

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.config.inventory import Inventory
    from fabfile.wal.chain import History
    from fabfile.wal.retention import Decision


@dataclass(frozen=True)
class WalPlan:
    """What would become of one cluster's base backups and WAL."""

    history: History
    decision: Decision


def prune(
    inventory: Inventory,
    bucket: Bucket,
    errors: list[SwarmkeepError],
    *,
    really: bool,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Decide, delete if `really`, say it unless `quiet`, and return it for programs. What fails
    goes to `errors`, and is found by the next prune.
    """
    from fabfile.terminal.progress_bar import progress_bar
    from fabfile.wal.deletion import delete, keys_of

    plans = plan(inventory, bucket)
    for one in plans:
        if really:
            try:
                with progress_bar() as show:
                    delete(bucket, keys_of(one.history, one.decision), show)
            except SwarmkeepError as error:
                errors.append(error)
                continue
        if not quiet:
            print(text(one, inventory.backup.pitr_window, really=really), flush=True)
    return [data(one) for one in plans]


def plan(inventory: Inventory, bucket: Bucket) -> list[WalPlan]:
    """Look at every cluster that WAL is archived of and decide; the live one, which the newest set
    is of, comes first. Nothing is decided while nobody has accepted that cluster, or where no set
    tells which one it is.
    """
    from fabfile.backup.verify import unaccepted
    from fabfile.wal.archive import WalArchive
    from fabfile.wal.retention import decide, decide_former

    now = datetime.now(UTC)
    database = inventory.postgres.database
    archive = WalArchive(bucket, bucket.project_id)
    clusters = archive.clusters()
    if not clusters:
        return []
    sets = bucket.newest(database, now).backups
    live = sets[0].manifest.cluster if sets and sets[0].manifest else ""
    if not live or unaccepted(sets[0], bucket.accepted_cluster(database)):
        return []
    plans = []
    for cluster in sorted(clusters, key=lambda one: one != live):
        history = archive.history(cluster, everything=True)
        # Whose the segments are, only base backups tell.
        if history.shared or (cluster != live and not history.bases):
            continue
        rule = decide if cluster == live else decide_former
        plans.append(WalPlan(history, rule(history, inventory.backup.pitr_window, now)))
    return plans


def text(one: WalPlan, window: int, *, really: bool) -> str:
    """What was done to a cluster's WAL, or would be."""
    from fabfile.base.units import format_duration

    decision = one.decision
    place = f"{one.history.place}: keep any second of the last {format_duration(window)}"
    if not decision.anything:
        why = f" ({decision.reason})" if decision.reason else ""
        return f"{place}: nothing to delete{why}"
    what = f"{len(decision.bases)} base backups, {len(decision.segments)} segments of WAL"
    what += f", {len(decision.marks)} marks" if decision.marks else ""
    why = f" ({decision.reason})" if decision.reason else ""
    return f"{place}: {what} {'deleted' if really else 'would be deleted'}{why}"


def data(one: WalPlan) -> dict[str, Any]:
    """The same for programs."""
    return {
        "cluster": one.history.cluster,
        "place": one.history.place,
        "kept_bases": [base.stamp for base in one.decision.kept],
        "bases": [base.stamp for base in one.decision.bases],
        "segments": len(one.decision.segments),
        "marks": [mark.name for mark in one.decision.marks],
        "reason": one.decision.reason,
    }
