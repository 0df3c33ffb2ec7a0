"""How a set comes back, as a person at the terminal sees it: which one, what is done, what came."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fabfile.terminal.command import open_bucket
from fabfile.terminal.deploy_dialog import say

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.restore.restore_script import OnStep, Restored
    from fabfile.ssh.fleet import Fleet, Host
    from fabfile.vault.backup_identity import Identity
    from fabfile.wal.chain import Window


_LOOKED_AT = 20
"""Sets of which the projects are looked at, where it is not known which is ours."""


def choose(
    inventory: Inventory,
    database: str,
    *,
    key: str,
    before: str,
    now: datetime,
    identity: str = "",
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
    bucket = open_bucket(inventory, identity)
    found = bucket.before(database, when, anybodys=bool(key))
    if found and found.project.id and not key and not bucket.project_id:
        others = bucket.latest(database, now, _LOOKED_AT).backups
        check_one_project(
            bucket.with_proofs(database, others), bucket.project_id, bucket.place(database)
        )
    if found and exact and found.timestamp != exact:
        found = None
    one = selection.usable(found, bucket.place(database), what)
    print(f"set {one.stamp} of {database}, made {made(one.timestamp, now)}", flush=True)
    if one.project.is_another(bucket.project_id):
        print(f"warning: it is of another project: {one.project}", flush=True)
    return one


@dataclass(frozen=True)
class Source:
    """What a database is brought back from: a set, or a point in time."""

    words: tuple[str, ...]
    """What restore-pg.sh takes for it."""
    when: datetime
    """Until when it has the commits."""
    compared: bool
    """Whether the rows are compared with something."""
    keys: frozenset[str] = frozenset()
    """The ids of the keys that it is encrypted for; none where it is not, or they are not known."""
    encrypted: bool = False
    """Whether any of it is."""


def choose_source(
    inventory: Inventory,
    database: str,
    *,
    key: str,
    before: str,
    at: str,
    at_mark: str,
    now: datetime,
    identity: str = "",
) -> Source:
    """The set or the point in time that is meant.

    Raises ConfigError, UnreachableError, or CheckFailedError if there is no such.
    """
    if at or at_mark:
        return choose_point(inventory, database, at=at, at_mark=at_mark, now=now)
    one = choose(inventory, database, key=key, before=before, now=now, identity=identity)
    return source_of(one)


def source_of(one: BackupSet) -> Source:
    """A set to bring back."""
    return Source(
        ("--set", one.stamp),
        one.timestamp,
        one.compared,
        frozenset(one.recipients),
        bool(one.recipients),
    )


def choose_point(
    inventory: Inventory, database: str, *, at: str = "", at_mark: str = "", now: datetime
) -> Source:
    """The point in time that is meant; `at` may be "now" for as late as there is WAL.

    Raises ConfigError, UnreachableError, or CheckFailedError if it is out of reach.
    """
    from fabfile.backup import selection
    from fabfile.base.errors import CheckFailedError
    from fabfile.wal.archive import WalArchive
    from fabfile.wal.object_keys import stamp

    bucket = open_bucket(inventory)
    archive = WalArchive(bucket, bucket.project_id)
    # After a recovery there are two clusters, one after the other: a time is of one of them.
    histories = [archive.history(cluster) for cluster in archive.clusters()]
    spans = [(window, one) for one in histories for window in one.windows()]
    spans.sort(key=lambda span: span[0].end, reverse=True)
    if not spans:
        raise CheckFailedError(
            f"s3://{bucket.name}/: no base backup with WAL of {database} is there",
            hint="it begins with backup.pitr: true in hosts.yaml and inv backup.install; "
            "to restore a set: inv backup.restore --latest",
        )
    if at_mark:
        marks = sorted((m for one in histories for m in one.marks), key=lambda m: m.time)
        mark = next((one for one in reversed(marks) if one.name == at_mark), None)
        if mark is None:
            names = ", ".join(dict.fromkeys(one.name for one in reversed(marks)))
            raise CheckFailedError(
                f"--at-mark {at_mark}: there is no such mark",
                hint=f"there are: {names}" if names else "inv backup.mark makes one",
            )
        # By its full name: another of this name may be set meanwhile.
        when, words = mark.time, ("--at-mark", f"{mark.name}_{stamp(mark.time)}")
    elif at in ("now", "end"):
        when, words = spans[0][0].end, ("--at", "end")
    else:
        when = selection.time_of(at, now, "--at").replace(microsecond=0)
        words = ("--at", stamp(when))
    found = next((one for window, one in spans if window.start <= when <= window.end), None)
    if found is None:
        said = " or ".join(spoken_window(window) for window, _ in spans)
        raise CheckFailedError(
            f"{when:%Y-%m-%d %H:%M:%S} UTC is out of reach: you can restore to any second "
            f"between {said}",
            hint="what was written a moment ago is there after the next upload; "
            "for older times there are sets: inv backup.list",
        )
    keys, encrypted = found.keys_for(when)
    return Source(
        (*words, "--cluster", found.cluster), when, compared=True, keys=keys, encrypted=encrypted
    )


def spoken_window(window: Window) -> str:
    """From when to when one can go, in words."""
    return f"{window.start:%Y-%m-%d %H:%M:%S} and {window.end:%Y-%m-%d %H:%M:%S} UTC"


def carry_out(
    fleet: Fleet,
    host: Host,
    label: str,
    line: str,
    names: tuple[str, str, str],
    *,
    wait: bool,
    image: str = "",
    identity: Identity | None = None,
) -> Restored | None:
    """Restore (if there is a `line` for it), exchange (if there is a name to keep the live
    database as), all on record. With `image` NocoDB comes back from that one. None in a dry run.
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
            done = run_script(host, line, identity)
            record.changes.append(f"database {fresh}: restored")
        return done
    with locked(fleet.first_manager(), options, record, say=say) as lease:
        if line:
            done = run_script(host, line, identity)
            record.changes.append(f"database {fresh}: restored")
        Exchange(fleet, lease, host, say, note, image).run(database, fresh, kept)
    return done


def run_script(host: Host, line: str, identity: Identity | None = None) -> Restored:
    """Run the script on the host, with its log and a bar."""
    from fabfile.restore import restore_script
    from fabfile.terminal.progress_bar import progress_bar

    with progress_bar() as show:
        on_step: OnStep = lambda step: show(step.phase, step.done, step.total)  # noqa: E731
        return restore_script.run(host, line, say, on_step, identity)


def counted(done: Restored, *, compared: bool) -> str:
    """How much came back, and whether it was compared with what was recorded."""
    said = f"{done.tables} tables, {done.rows} rows"
    return f"{said}, as recorded" if compared else f"{said} (not compared: counting was off)"


def contents(one: BackupSet) -> str:
    """How much is in a set, for a person to judge."""
    from fabfile.base.units import format_size

    rows = one.manifest.rows if one.manifest else None
    said = "rows not counted" if rows is None else f"{sum(rows.values())} rows"
    return f"{said}, dump {format_size(one.size)}"


def made(when: datetime, now: datetime) -> str:
    """When a set was made, or a point in time was, and how long ago that is."""
    from fabfile.base.units import format_duration

    return f"{when:%Y-%m-%d %H:%M:%S} UTC ({format_duration((now - when).total_seconds())} ago)"


def bring_files(fleet: Fleet, identity: str = "") -> None:
    """Fetch the attachments that the app hosts lack; nothing that is there is touched."""
    from fabfile.backup.sets import FilesState
    from fabfile.restore import recovery
    from fabfile.terminal.identity_dialog import identity_for

    print("attachments", flush=True)
    inventory = fleet.inventory
    bucket = open_bucket(inventory)
    recorded = {
        of: [
            state
            for entry in inventory.with_role("app")
            if isinstance(state := bucket.files_state(of, entry.node), FilesState)
        ]
        for of in inventory.files_folders
    }
    keys = {key for states in recorded.values() for one in states for key in one.recipients}
    private = identity_for(inventory, (), identity, "attachments", encrypted=bool(keys))
    # What was never backed up cannot come back.
    others = [of for of in inventory.files_folders[1:] if recorded[of]]
    recovery.restore_files(fleet, say, private, others)
