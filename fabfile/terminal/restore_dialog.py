"""How a set comes back, as a person at the terminal sees it: which one, what is done, what came."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fabfile.terminal.command import open_bucket
from fabfile.terminal.deploy_dialog import say

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.restore.restore_script import OnStep, Restored
    from fabfile.ssh.fleet import Fleet, Host


_LOOKED_AT = 20
"""Sets of which the projects are looked at, where it is not known which is ours."""


def choose(
    inventory: Inventory, database: str, *, key: str, before: str, now: datetime
) -> BackupSet:
    """The set that is meant, with its manifest; it is complete as far as sizes tell.

    Raises ConfigError, UnreachableError, or CheckFailedError if there is no good one.
    """
    from fabfile.backup import selection
    from fabfile.backup.sets import check_one_project
    from fabfile.backup.verify import CLOCK_TOLERANCE

    if key:
        exact = selection.set_of(key, database)
        when, what = exact + timedelta(seconds=1), f"of {exact:%Y-%m-%d %H:%M:%S} UTC"
    elif before:
        when = selection.time_of(before, now)
        exact, what = None, f"made before {when:%Y-%m-%d %H:%M:%S} UTC"
    else:
        when, exact, what = now + timedelta(seconds=CLOCK_TOLERANCE), None, ""
    bucket = open_bucket(inventory)
    found = bucket.before(database, when, anybodys=bool(key))
    if found and found.project.id and not key and not bucket.project_id:
        others = bucket.latest(database, now, _LOOKED_AT).backups
        check_one_project(
            bucket.with_proofs(database, others), bucket.project_id, bucket.place(database)
        )
    if found and exact and found.timestamp != exact:
        found = None
    one = selection.usable(found, bucket.place(database), what)
    print(f"set {one.stamp} of {database}, made {made(one, now)}", flush=True)
    if one.project.is_another(bucket.project_id):
        print(f"warning: it is of another project: {one.project}", flush=True)
    return one


def carry_out(
    fleet: Fleet, host: Host, label: str, line: str, names: tuple[str, str, str], *, wait: bool
) -> Restored | None:
    """Restore (if there is a `line` for it), exchange (if there is a name to keep the live
    database as), all on record. None in a dry run.
    """
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.locked_change import Record, locked, on_record
    from fabfile.restore.database_swap import Exchange
    from fabfile.restore.restore_script import Restored, swap_command
    from fabfile.swarm import operator

    database, fresh, kept = names
    options, record = Options(label, operator.find(), wait=wait), Record()
    done = Restored(0, 0, 0)

    def note(change: str) -> None:
        record.changes.append(change)
        say(change)

    if fleet.dry:
        for shown in filter(None, (line, swap_command(database, fresh, kept) if kept else "")):
            run_script(host, shown)
        return None
    if not kept:
        with on_record(fleet, options, record):
            done = run_script(host, line)
            record.changes.append(f"database {fresh}: restored")
        return done
    with locked(fleet.first_manager(), options, record, say=say) as lease:
        if line:
            done = run_script(host, line)
            record.changes.append(f"database {fresh}: restored")
        Exchange(fleet, lease, host, say, note).run(database, fresh, kept)
    return done


def run_script(host: Host, line: str) -> Restored:
    """Run the script on the host, with its log and a bar."""
    from fabfile.restore import restore_script as rooms
    from fabfile.terminal.progress_bar import progress_bar

    with progress_bar() as show:
        on_step: OnStep = lambda step: show(step.phase, step.done, step.total)  # noqa: E731
        return rooms.run(host, line, say, on_step)


def counted(done: Restored, one: BackupSet) -> str:
    """How much came back, and whether it was compared with the manifest."""
    said = f"{done.tables} tables, {done.rows} rows"
    counted = one.manifest is not None and one.manifest.rows is not None
    return f"{said}, as recorded" if counted else f"{said} (not compared: counting was off)"


def contents(one: BackupSet) -> str:
    """How much is in a set, for a person to judge."""
    from fabfile.base.units import format_size

    rows = one.manifest.rows if one.manifest else None
    said = "rows not counted" if rows is None else f"{sum(rows.values())} rows"
    return f"{said}, dump {format_size(one.size)}"


def made(one: BackupSet, now: datetime) -> str:
    """When a set was made, and how long ago that is."""
    from fabfile.base.units import format_duration

    ago = format_duration((now - one.timestamp).total_seconds())
    return f"{one.timestamp:%Y-%m-%d %H:%M:%S} UTC ({ago} ago)"


def bring_files(fleet: Fleet) -> None:
    """Fetch the attachments that the app hosts lack; nothing that is there is touched."""
    from fabfile.restore import recovery

    print("attachments", flush=True)
    recovery.restore_files(fleet, say)
