"""inv backup.prune: what the policy of hosts.yaml keeps, and deleting the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from invoke.context import Context

from fabfile.base.errors import SwarmkeepError
from fabfile.commands.backup import DATABASE_HELP, JSON_HELP, age_of, chosen_databases
from fabfile.terminal.command import command, is_dry, open_bucket, read_inventory, show_error

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.deletion import Lock, Protection, Removal, Removed
    from fabfile.backup.retention import Decision
    from fabfile.backup.sets import BackupSet
    from fabfile.backup.verify import Holding
    from fabfile.config.backup import Backup, Retention

_SHOWN = 10
"""Keys and times that are listed one by one."""


@dataclass(frozen=True)
class Plan:
    """What would become of one database's sets. `protection` is None where nothing would go."""

    database: str
    policy: Retention
    holding: Holding
    decisions: list[Decision]
    now: datetime
    protection: Protection | None = None
    locks: dict[datetime, Lock] = field(default_factory=dict)

    @property
    def going(self) -> list[BackupSet]:
        """What may be deleted."""
        return [d.backup for d in self.decisions if self.verdict(d) == "goes"]

    def verdict(self, decision: Decision) -> str:
        """ "keep", "goes", or "locked": would go and cannot."""
        if not decision.goes:
            return "keep"
        return "locked" if decision.backup.timestamp in self.locks else "goes"

    def because(self, decision: Decision) -> list[str]:
        """Why a set stays; nothing if it does not."""
        lock = self.locks.get(decision.backup.timestamp)
        return [str(lock)] if lock else list(decision.reasons)


@command(
    notifies="backup.prune",
    help={
        "yes": "delete what the policy does not keep; without it nothing is changed",
        "database": DATABASE_HELP,
        "json": JSON_HELP,
    },
)
def prune(
    ctx: Context,
    hosts: str | None = None,
    yes: bool = False,
    database: str = "",
    json: bool = False,
) -> None:
    """Show which old backups may go; --yes deletes them."""
    from fabfile.backup.deletion import Removal
    from fabfile.commands import prune_wal
    from fabfile.terminal.progress_bar import progress_bar
    from fabfile.terminal.tables import to_json

    inventory = read_inventory(hosts)
    bucket = open_bucket(inventory)
    really = yes and not is_dry(ctx)
    documents: list[dict[str, Any]] = []
    errors: list[SwarmkeepError] = []
    for name in chosen_databases(inventory, database):
        removal = Removal(bucket)
        plan = _plan(bucket, removal, name, inventory.backup)
        if not json:
            print(_table(plan), flush=True)
        results = []
        if really:
            with progress_bar() as show:
                results = removal.remove(plan.going, show)
        if not json:
            print("\n".join(_outcome(plan, results, really=really)), flush=True)
        documents.append(_data(plan, results))
        if error := _error(results):
            errors.append(error)
    wal = [] if database else prune_wal.prune(inventory, bucket, errors, really=really, quiet=json)
    if json:
        document = documents[0] if len(documents) == 1 else {"databases": documents}
        print(to_json(document | ({"wal": wal} if wal else {})))
    for error in errors[:-1]:
        show_error(error)
    if errors:
        raise errors[-1]


def _plan(bucket: Bucket, removal: Removal, database: str, backup: Backup) -> Plan:
    """Look at what the bucket holds of a database and decide."""
    from dataclasses import replace

    from fabfile.backup.retention import decide
    from fabfile.backup.sets import check_one_project, divided
    from fabfile.backup.verify import unaccepted
    from fabfile.base.age_encryption import key_id

    now = datetime.now(UTC)
    holding = bucket.latest(database, now, 0)
    read = bucket.with_proofs(database, holding.backups)
    check_one_project(read, bucket.project_id, holding.place)
    ours, foreign = divided(read, bucket.project_id)
    holding = replace(holding, foreign=foreign)
    before = unaccepted(ours[0], "") if ours else ""
    # Only where it matters: it costs a request.
    before = before and unaccepted(ours[0], bucket.accepted_cluster(database))
    key_ids = {*map(key_id, backup.recipients)}
    if any(one.recipients for one in ours) and bucket.identity:
        key_ids |= {*bucket.identity.key_ids}
    decisions = decide(
        backup.retention,
        [*holding.future, *ours],
        now,
        unaccepted=bool(before),
        key_ids=key_ids,
    )
    plan = Plan(database, backup.retention, holding, decisions, now)
    if not plan.going:
        return plan
    protection = removal.protection()
    locks = removal.locks(plan.going, now) if protection.locked else {}
    return replace(plan, protection=protection, locks=locks)


def _table(plan: Plan) -> str:
    from fabfile.base.units import format_size
    from fabfile.terminal.tables import plain, table

    policy = plan.policy
    lines = [
        f"{plan.holding.place}: keep {policy.daily} daily, {policy.weekly} weekly, "
        f"{policy.monthly} monthly, {policy.yearly} yearly; at least {policy.minimum}"
    ]
    rows = [
        [
            {"keep": "keep", "goes": "[red]goes[/]", "locked": "[yellow]locked[/]"}[
                plan.verdict(decision)
            ],
            plain(decision.backup.stamp),
            age_of(decision.backup, plan.now),
            format_size(decision.backup.stored),
            plain(", ".join(plan.because(decision))),
        ]
        for decision in plan.decisions
    ]
    if rows:
        lines.append(table(["", "set", "age", "size", "because"], rows))
    for one in plan.holding.foreign[:_SHOWN]:
        lines.append(f"left alone: set {one.stamp}, which is of {plain(str(one.project))}")
    if len(plan.holding.foreign) > _SHOWN:
        lines.append(f"left alone: {len(plan.holding.foreign) - _SHOWN} more of other projects")
    for when in plan.holding.incomplete[:_SHOWN]:
        lines.append(f"left alone: parts of {when:%Y%m%dT%H%M%SZ}, which lack a manifest")
    if len(plan.holding.incomplete) > _SHOWN:
        lines.append(f"left alone: parts of {len(plan.holding.incomplete) - _SHOWN} more")
    if plan.holding.others:
        lines.append(f"left alone: what is no backup, such as {plain(plan.holding.others[0])}")
    return "\n".join(lines)


def _outcome(plan: Plan, results: list[Removed], *, really: bool) -> list[str]:
    """What was done, or would be."""
    from fabfile.base.units import format_size

    count, going = len(plan.decisions), plan.going
    if not going:
        left = len(plan.locks)
        cannot = f"; {left} cannot be deleted yet: they are locked" if left else ""
        return [f"nothing to delete: all of the {count} sets stay{cannot}"]
    versions = (
        "versioning is on: what is deleted stays as an old version, and is paid for, until a "
        "lifecycle rule removes it (inv bucket.check)"
    )
    note = [versions] if plan.protection and plan.protection.versioned else []
    if really:
        gone = [result.backup for result in results if result.error is None and not result.left]
        freed = format_size(sum(one.stored for one in gone))
        return [f"deleted {len(gone)} of {count} sets, {freed}", *note]
    freed = format_size(sum(one.stored for one in going))
    return [
        f"{len(going)} of {count} sets would be deleted, {freed}; nothing was changed: "
        "inv backup.prune --yes deletes them",
        *note,
    ]


def _error(results: list[Removed]) -> SwarmkeepError | None:
    """What to end with; None if everything that should go is gone."""
    failed = [result for result in results if result.error]
    if not failed or failed[0].error is None:
        return None
    first = failed[0].error
    details = []
    for result in failed:
        if len(result.left) < len(result.backup.parts):
            # It no longer counts as a backup, and no later prune touches it.
            details += [f"left of a partly deleted set: {key}" for key in result.left]
    stay = sum(bool(result.left) for result in results)
    error = type(first)(
        f"{stay} of {len(results)} sets could not be deleted: {first.message}",
        hint=first.hint,
        details=tuple(details[:_SHOWN]),
    )
    error.exit_code = first.exit_code
    return error


def _data(plan: Plan, results: list[Removed]) -> dict[str, Any]:
    """The same for programs. Times are UTC, ISO 8601, sizes bytes."""
    going = plan.going
    gone = {result.backup.stamp for result in results if not result.left}
    return {
        "place": plan.holding.place,
        "database": plan.database,
        "policy": vars(plan.policy),
        "sets": [
            {
                "set": decision.backup.stamp,
                "time": f"{decision.backup.timestamp:%Y-%m-%dT%H:%M:%SZ}",
                "bytes": decision.backup.stored,
                "verdict": plan.verdict(decision),
                "because": plan.because(decision),
                "deleted": decision.backup.stamp in gone,
            }
            for decision in plan.decisions
        ],
        "left_alone": {
            "without_manifest": [f"{when:%Y%m%dT%H%M%SZ}" for when in plan.holding.incomplete],
            "no_backup": list(plan.holding.others),
            "other_projects": [one.stamp for one in plan.holding.foreign],
        },
        "bytes": sum(one.stored for one in going),
        "versioned": plan.protection.versioned if plan.protection else None,
        "failed": [str(result.error) for result in results if result.error],
    }
