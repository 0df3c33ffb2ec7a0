"""inv recover: from an empty db host to everything as it was in the last good backup."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.commands.carrying_out import WAIT_HELP, ask, carry_out, say
from fabfile.commands.edge import command, connected, read_inventory, read_vault
from fabfile.commands.restore import BEFORE_HELP, DRY, KEY_HELP
from fabfile.commands.restoring import bring_files, choose, counted, made
from fabfile.commands.restoring import carry_out as carry_out_restore
from fabfile.errors import ConfigError, SwarmkeepError

if TYPE_CHECKING:
    from fabfile.inventory import Inventory
    from fabfile.restore import Restored
    from fabfile.sets import BackupSet
    from fabfile.transport import Fleet
    from fabfile.vault import Secrets

_LOOKED_AT = 20
"""Sets of a database, the newest, among which the one to restore is looked for."""
_ONE_RUN = timedelta(hours=1)
"""By how much the databases of one run may lie apart."""


@command(
    help={
        "key": f"instead of the newest proven set: {KEY_HELP}",
        "before": f"instead of the newest proven set: {BEFORE_HELP}",
        "yes": "do not ask before it begins",
        "wait": WAIT_HELP,
    }
)
def recover(
    ctx: Context,
    hosts: str | None = None,
    key: str = "",
    before: str = "",
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Bring all back from the bucket onto an empty db host."""
    from fabfile import origin, recovery
    from fabfile.commands.plan import wanted_stack
    from fabfile.deploy import make_plan
    from fabfile.endings import Options
    from fabfile.vault import POSTGRES_PASSWORD

    if key and before:
        raise ConfigError("--key and --before: want one of them at most")
    start = time.monotonic()
    inventory = read_inventory(hosts)
    secrets = read_vault(inventory)
    wanted = [wanted_stack(role, inventory, secrets) for role in ("db", "app")]
    sets = _sets(inventory, key=key, before=before)
    with connected(ctx, inventory) as fleet:
        seen = recovery.look(fleet, wanted)
        site = recovery.survey(fleet, seen, [secrets.require(POSTGRES_PASSWORD)])
        for stack, moves in zip(wanted, (site.moves, False), strict=True):
            make_plan(inventory, stack, seen, move_data_host=moves, database_first=True)
        ask(
            f"This brings back {_named(sets)}. Go on?",
            yes=yes,
            refusal=f"this would bring back {_named(sets)}",
        )
        options = Options("recover", origin.find(), wait=wait, move_data_host=site.moves)
        database, app = wanted
        carry_out(fleet, database, options, yes=True, seen=seen)
        if fleet.dry:
            print(DRY)
            return
        _install(fleet, inventory, secrets)
        came = _restore(fleet, sets, replaced=site.replaced, wait=wait)
        carry_out(fleet, app, Options("recover", options.origin, wait=wait), yes=True)
        if inventory.backup.files:
            bring_files(fleet)
    _print_result(came, time.monotonic() - start)


@dataclass(frozen=True)
class _Came:
    """What has come back of one database. `kept` names the one it took the place of, or ""."""

    one: BackupSet
    done: Restored
    kept: str


def _sets(inventory: Inventory, *, key: str, before: str) -> dict[str, BackupSet]:
    """The set of every database that is to come back."""
    from fabfile import choosing
    from fabfile.bucket import Bucket

    now = datetime.now(UTC)
    first, *others = inventory.postgres.databases
    sets = {}
    if key:
        sets[first] = choose(inventory, first, key=key, before="", now=now)
        # The others of the same run, or of the one before.
        before = f"{sets[first].timestamp + _ONE_RUN:%Y-%m-%dT%H:%M:%SZ}"
    elif before:
        sets[first] = choose(inventory, first, key="", before=before, now=now)
    if before:
        return sets | {
            name: choose(inventory, name, key="", before=before, now=now) for name in others
        }
    bucket = Bucket(inventory.backup)
    for name in inventory.postgres.databases:
        listed = bucket.latest(name, now, _LOOKED_AT).backups
        one, passed = choosing.newest_proven(
            bucket.with_proofs(name, listed), bucket.place(name), inventory.backup.min_size
        )
        for other, why in passed:
            print(f"set {other.stamp} of {name} is passed over: {why}")
        print(f"set {one.stamp} of {name}, made {made(one, now)}; {one.rung}", flush=True)
        sets[name] = one
    return sets


def _named(sets: dict[str, BackupSet]) -> str:
    return ", ".join(
        f"{name} as it was at {one.timestamp:%Y-%m-%d %H:%M:%S} UTC" for name, one in sets.items()
    )


def _install(fleet: Fleet, inventory: Inventory, secrets: Secrets) -> None:
    """Put the backup's scripts in place, by which the restore is done."""
    from fabfile import backup_host

    print("backup.install", flush=True)
    outcomes = backup_host.install(fleet, inventory, secrets)
    for outcome in outcomes:
        for change in outcome.value.changes if outcome.value else ():
            say(f"{outcome.entry.name}: {change}")
    error = next((outcome.error for outcome in outcomes if outcome.error), None)
    if error:
        raise error


def _restore(
    fleet: Fleet, sets: dict[str, BackupSet], *, replaced: frozenset[str], wait: bool
) -> dict[str, _Came]:
    """Restore every set; where NocoDB runs or has begun anew, it takes the place of that."""
    from fabfile import backup_host, choosing
    from fabfile.restore import restore_command

    host = backup_host.find_host(fleet, fleet.inventory)
    now = datetime.now(UTC)
    came = {}
    for name, one in sets.items():
        fresh = choosing.new_name(name, "restored", now) if name in replaced else name
        kept = choosing.new_name(name, "replaced", now) if name in replaced else ""
        print(f"restoring {name}", flush=True)
        line = restore_command(name, one.stamp, fresh, 0, goes_live=True)
        label = f"recover {one.stamp}"
        done = carry_out_restore(fleet, host, label, line, (name, fresh, kept), wait=wait)
        if done is None:
            raise SwarmkeepError(f"{name}: nothing was restored in a dry run")
        came[name] = _Came(one, done, kept)
    return came


def _print_result(came: dict[str, _Came], seconds: float) -> None:
    from fabfile.units import format_duration

    for name, that in came.items():
        when = f"{that.one.timestamp:%Y-%m-%d %H:%M:%S} UTC"
        print(f"recovered: {name}, as it was at {when}: {counted(that.done, that.one)}")
        if that.kept:
            print(f"what NocoDB had begun meanwhile is kept as {that.kept}")
    print(f"all is back ({format_duration(seconds)}); next: inv backup.verify doctor")
