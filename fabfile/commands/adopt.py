"""inv adopt: a NocoDB that runs already, moved with its database, and the way back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.terminal.adopt_dialog import (
    DRY,
    Looked,
    check_hosts_file,
    examine,
    first_backup,
    on_record,
    print_plan,
    put_settings,
    since_then,
    with_target,
    write_hosts_file,
)
from fabfile.terminal.command import command, is_dry, read_inventory, read_vault, sudo_password
from fabfile.terminal.deploy_dialog import WAIT_HELP, ask, say

if TYPE_CHECKING:
    from fabfile.deploy.finish_script import Options
    from fabfile.ssh.fleet import Fleet


@command(
    notifies="adopt",
    help={
        "source": "or --from: what runs: stack:NAME, compose:HOST:/FOLDER or container:HOST:NAME",
        "plan": "look at it only: what there is, what hosts.yaml must say",
        "rehearse": "copy and compare beside, in a throwaway PostgreSQL; the source goes on",
        "undo": "start what ran before again, and remove the new app",
        "finish": "end it: tells what may be removed of what ran before",
        "write": "with --plan: change hosts.yaml, and put NocoDB's settings into the vault",
        "yes": "do not ask before NocoDB is stopped, or newer data left behind",
        "wait": WAIT_HELP,
    },
)
def adopt(
    ctx: Context,
    source: str = "",
    hosts: str = "",
    plan: bool = False,
    rehearse: bool = False,
    undo: bool = False,
    finish: bool = False,
    write: bool = False,
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Take over a NocoDB that runs already, with its PostgreSQL."""
    if sum((bool(source), undo, finish)) != 1 or (plan and rehearse) or (write and not plan):
        raise ConfigError(
            "say one of: --from SOURCE (perhaps with --plan or --rehearse), --undo, --finish",
            hint="inv --help adopt",
        )
    inventory = read_inventory(hosts).without_app_databases()

    from fabfile.adopt.inspection import look
    from fabfile.adopt.source import parse
    from fabfile.deploy.finish_script import Options
    from fabfile.ssh.fleet import connect
    from fabfile.swarm import operator

    what = f"--from {source}" if source else "--undo" if undo else "--finish"
    options = Options(f"adopt {what}", operator.find(), wait=wait)
    where = parse(source) if source else None
    sudo, dry = sudo_password(ctx), is_dry(ctx)
    with connect(inventory, sudo_password=sudo, dry=dry, echo=print) as fleet:
        if where is None:
            if undo:
                _undo(fleet, options, yes=yes)
            else:
                _finish(fleet)
            return
        if not plan and not rehearse and _resume(fleet, options):
            return
        found = look(fleet, where)
        with found.server(fleet) as server:
            looked = examine(found, server)
            print_plan(fleet, looked)
            if plan:
                if write and not dry:
                    put_settings(inventory, found)
                write_hosts_file(inventory, looked, write=write and not dry)
                return
            check_hosts_file(inventory, looked)
            looked = with_target(fleet, looked)
            if rehearse:
                _rehearse(fleet, looked)
                return
            if dry:
                print(DRY)
                return
            ask(
                f"This stops {found.app.what} on {found.app.host.name} until its data is copied "
                "and compared. Go on?",
                yes=yes,
                refusal=f"{where}: this would stop {found.app.what}",
            )
            put_settings(inventory, found)
            _move(fleet, looked, options)


def _rehearse(fleet: Fleet, looked: Looked) -> None:
    from fabfile.adopt import rehearsal
    from fabfile.adopt.database_copy import DatabaseCopy, Session
    from fabfile.adopt.server import need_image
    from fabfile.base.units import format_duration

    inventory = fleet.inventory
    if fleet.dry:
        print(DRY)
        return
    need_image(looked.target.host, inventory.app.image)
    with rehearsal.throwaway(looked.target, inventory.project) as server:
        session = Session(looked.source, inventory.postgres.databases, fence=False)
        start = time.monotonic()
        try:
            session.start()
            copy = DatabaseCopy(session, server, inventory.postgres.user, say)
            copy.copy()
        finally:
            session.end()
        seconds = time.monotonic() - start
        say(f"databases copied and compared: {copy.tables} tables, {copy.rows} rows")
        rehearsal.ask_app(
            server, inventory.postgres.database, inventory.app.image, inventory.project
        )
        say("NocoDB answers from the copy")
    print(
        f"rehearsed: nothing was changed; NocoDB would have to be stopped for about "
        f"{format_duration(seconds)}, and its start; next: inv adopt --from {looked.found.source}"
    )


def _move(fleet: Fleet, looked: Looked, options: Options) -> None:
    from fabfile.adopt.adoption import Adoption
    from fabfile.adopt.database_copy import DatabaseCopy, Session
    from fabfile.backup import host_run
    from fabfile.base.units import format_duration
    from fabfile.commands.plan import wanted_stack
    from fabfile.terminal.adopt_dialog import attachments_of, switches_of
    from fabfile.terminal.deploy_dialog import deployment_of

    inventory, found = fleet.inventory, looked.found
    wanted = wanted_stack("app", inventory, read_vault(inventory))
    control, apps, database = switches_of(fleet, looked)
    session = Session(looked.source, inventory.postgres.databases, fence=True)
    adoption = Adoption(
        deployment_of(fleet, wanted, options, yes=True),
        found,
        session,
        DatabaseCopy(session, looked.target, inventory.postgres.user, say),
        attachments_of(fleet, found),
        control,
        apps,
        database,
        say,
    )
    report = adoption.run()
    host_run.note_images(fleet, report.images)
    print(
        f"adopted: {inventory.app.stack} is NocoDB now; it did not answer for "
        f"{format_duration(adoption.stopped_seconds)}",
        flush=True,
    )
    if database is None:
        print(
            f"{found.server_name} goes on: it is not of this source, or has other databases; what "
            "other programs write into NocoDB's database there is not moved any more"
        )
    first_backup(fleet)
    print(
        "to go back: inv adopt --undo; when all is well: inv adopt --finish",
    )


def _resume(fleet: Fleet, options: Options) -> bool:
    """End a move whose client was lost once the source was to stay stopped. Whether there was one.

    Raises SwarmkeepError for one that is done.
    """
    from fabfile.adopt import adoption
    from fabfile.adopt.inspection import host_entry
    from fabfile.adopt.stopping import running
    from fabfile.backup import host_run
    from fabfile.commands.plan import wanted_stack
    from fabfile.terminal.adopt_dialog import app_host, live_server
    from fabfile.terminal.deploy_dialog import carry_out

    inventory = fleet.inventory
    host = host_run.find_host(fleet, inventory)
    note = adoption.read_note(host)
    if note is None:
        return False
    if note.phase == adoption.UNDOING:
        raise SwarmkeepError(f"{note.source}: going back was cut off", hint="inv adopt --undo")
    if note.phase == adoption.DONE:
        raise SwarmkeepError(
            f"{note.source} was adopted at {note.when}",
            hint="to go back: inv adopt --undo; when all is well: inv adopt --finish",
        )
    control = fleet.host(host_entry(inventory, note.host))
    if up := running(control, note.apps):
        raise SwarmkeepError(
            f"{note.source}: the move of {note.when} was cut off, and {', '.join(up)} runs: what "
            "is in the copy is no longer all",
            hint="inv adopt --undo, then this again",
        )
    print(f"{note.source}: the move of {note.when} was cut off; it is ended now", flush=True)
    if fleet.dry:
        print(DRY)
        return True
    try:
        carry_out(fleet, wanted_stack("app", inventory, read_vault(inventory)), options, yes=True)
    except SwarmkeepError as error:
        error.hint = f"{error.hint}; to go back to {note.source}: inv adopt --undo"
        raise
    app = app_host(fleet)
    adoption.settle(live_server(fleet), app, control, note)
    first_backup(fleet)
    print("adopted: to go back: inv adopt --undo; when all is well: inv adopt --finish")
    return True


def _undo(fleet: Fleet, options: Options, *, yes: bool) -> None:
    from fabfile.adopt import adoption
    from fabfile.adopt.inspection import host_entry
    from fabfile.deploy.locked_change import Record, locked
    from fabfile.terminal.adopt_dialog import app_host, live_server

    inventory = fleet.inventory
    target = live_server(fleet)
    note = on_record(target.host.name, adoption.read_note(target.host))
    since = since_then(target, note)
    if fleet.dry:
        print(f"{note.source}: written since: {since}")
        print(DRY)
        return
    ask(
        f"This goes back to {note.source} with its data of {note.when}. What was written since "
        f"({since}) stays in {inventory.postgres.stack} only, and attachments in "
        f"{inventory.app.stack}_data. Go on?",
        yes=yes,
        refusal=f"{inventory.app.stack}: this would leave {since} behind",
    )
    control = fleet.host(host_entry(inventory, note.host))
    app = app_host(fleet)
    record = Record()
    with locked(fleet.first_manager(), options, record, say=say) as lease:
        note = note.undoing()
        adoption.undo(target, lease.manager, app, control, note)
        record.changes.append(f"{note.source} runs again, {inventory.app.stack} is removed")
    print(f"undone: {note.source} runs as it did, with its data of {note.when}")
    print(
        f"left behind: {since}, in {', '.join(note.kept)} of {inventory.postgres.stack}; "
        f"attachments in volume {inventory.app.stack}_data on {app.name}: before another try, "
        f"if they may go: docker volume rm {inventory.app.stack}_data"
    )


def _finish(fleet: Fleet) -> None:
    from fabfile.adopt import adoption
    from fabfile.backup import host_run
    from fabfile.terminal.upgrade_dialog import check_drilled

    inventory = fleet.inventory
    host = host_run.find_host(fleet, inventory)
    note = on_record(host.name, adoption.read_note(host))
    if note.phase != adoption.DONE:
        raise SwarmkeepError(
            f"{note.source}: the move is not ended", hint=f"inv adopt --from {note.source}"
        )
    check_drilled(inventory, "the source is not given up")
    if fleet.dry:
        print(DRY)
        return
    adoption.forget_note(host)
    commands = [one.gone for one in (*note.apps, *([note.database] if note.database else []))]
    print(
        f"finished: the move from {note.source} can no longer be undone\n"
        f"what may be removed, on {note.host}: {'; '.join(commands)}\n"
        f"and where it had its data: {', '.join(note.folders)}"
    )
