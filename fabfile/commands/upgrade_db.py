"""inv upgrade-db: another major version of PostgreSQL, with proof and the way back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.terminal.backup_container_dialog import refuse_in_container
from fabfile.terminal.command import command, is_dry, read_inventory, read_vault, sudo_password
from fabfile.terminal.deploy_dialog import WAIT_HELP, ask, say
from fabfile.terminal.upgrade_dialog import check_drilled, settled

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.finish_script import Options
    from fabfile.ssh.fleet import Fleet, Host
    from fabfile.upgrade.copy_script import Note, Version

DRY = "dry run, nothing was changed"
_NO_NOTE = "no upgrade is on record"


@command(
    notifies="upgrade-db",
    name="upgrade-db",
    help={
        "target": "the new version: a tag such as 17-bookworm, or a whole image name",
        "rehearse": "copy and compare only, beside the running server, which goes on",
        "undo": "go back to the version before, with its data of then",
        "finish": "end an upgrade: afterwards the old volume may be removed",
        "write": "change images.postgres and db.volume in the hosts file",
        "yes": "do not ask before NocoDB is stopped, or the newer data left behind",
        "wait": WAIT_HELP,
    },
)
def upgrade_db(
    ctx: Context,
    target: str = "",
    hosts: str = "",
    rehearse: bool = False,
    undo: bool = False,
    finish: bool = False,
    write: bool = False,
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Move the database to another major version of PostgreSQL."""
    if sum((bool(target), undo, finish)) != 1 or (rehearse and not target):
        raise ConfigError(
            "say one of: a version such as 17-bookworm (perhaps with --rehearse), --undo, --finish",
            hint="inv --help upgrade-db",
        )
    inventory = read_inventory(hosts)
    refuse_in_container(inventory, "upgrade-db")

    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.preflight import Allowed
    from fabfile.swarm import operator

    # The new volume is another cluster, and that is what is meant.
    options = Options(
        f"upgrade-db {target or ('--undo' if undo else '--finish')}",
        operator.find(),
        wait=wait,
        allowed=Allowed(leave_data=True),
    )
    if target:
        _upgrade(ctx, inventory, target, options, rehearse=rehearse, write=write, yes=yes)
    elif undo:
        _undo(ctx, inventory, options, write=write, yes=yes)
    else:
        _finish(ctx, inventory)


def _upgrade(
    ctx: Context,
    inventory: Inventory,
    target: str,
    options: Options,
    *,
    rehearse: bool,
    write: bool,
    yes: bool,
) -> None:
    from fabfile.backup import host_run
    from fabfile.deploy.observation import observe_any
    from fabfile.ssh.fleet import connect
    from fabfile.terminal.mark_dialog import set_mark
    from fabfile.upgrade import copy_script
    from fabfile.upgrade.database import live_version, next_version, noted, place_of, with_version

    sudo, start = sudo_password(ctx), time.monotonic()
    with connect(inventory, sudo_password=sudo, dry=is_dry(ctx), echo=print) as fleet:
        live = live_version(inventory, observe_any(fleet)[1])
        after = next_version(live, target)
        host = host_run.find_host(fleet, inventory)
        stack = inventory.postgres.stack
        print(
            f"{stack}: PostgreSQL {live.major} ({live.image}) to {after.major} ({after.image}), "
            f"from volume {stack}_{live.volume} into {stack}_{after.volume}",
            flush=True,
        )
        if live.major == after.major:
            _settle(ctx, inventory, live, noted(host), options, write=write)
            return
        if not rehearse:
            check_drilled(inventory)
        line = copy_script.arguments(
            "rehearse" if rehearse else "check",
            after.image,
            **({"volume": f"{stack}_{after.volume}", **place_of(after)} if rehearse else {}),
        )
        copy_script.run(host, line, say)
        if rehearse or fleet.dry:
            print(DRY if fleet.dry else "rehearsed: nothing was changed; NocoDB would have to be "
                  f"stopped for about this long; next: inv upgrade-db {target}")  # fmt: skip
            return
        ask(
            "NocoDB is stopped while all databases are copied, and writers are kept away. Go on?",
            yes=yes,
            refusal=f"{stack}: this would stop NocoDB while all databases are copied",
        )
        set_mark(fleet, "upgrade-db", say)
    with connect(with_version(inventory, after), sudo_password=sudo, echo=print) as fleet:
        _switch(fleet, live, after, options, back=False)
        settled(fleet, inventory, after, write=write)
    print(
        f"upgraded: {stack} is PostgreSQL {after.major} ({_took(start)}); the data of before is in "
        f"volume {stack}_{live.volume}\n"
        "to go back to it: inv upgrade-db --undo; when all is well: inv upgrade-db --finish"
    )


def _switch(fleet: Fleet, before: Version, after: Version, options: Options, *, back: bool) -> None:
    """From one version to the other; `fleet` is of the hosts file as it should be afterwards."""
    from fabfile.backup import host_run
    from fabfile.base.units import format_duration
    from fabfile.commands.plan import wanted_stack
    from fabfile.terminal.deploy_dialog import deployment_of
    from fabfile.upgrade.database import Switch

    inventory = fleet.inventory
    wanted = wanted_stack("db", inventory, read_vault(inventory))
    deployment = deployment_of(fleet, wanted, options, yes=True)
    host = host_run.find_host(fleet, inventory)
    switch = Switch(fleet, deployment, host, before, say)
    report = switch.go_back() if back else switch.upgrade(after)
    host_run.note_images(fleet, report.images)
    if switch.stopped:
        apps = " and ".join(switch.stopped)
        were = "was" if len(switch.stopped) == 1 else "were"
        say(f"{apps} {were} stopped for {format_duration(switch.stopped_seconds)}")


def _settle(
    ctx: Context,
    inventory: Inventory,
    live: Version,
    note: Note | None,
    options: Options,
    *,
    write: bool,
) -> None:
    """End an upgrade whose client was lost after the switch."""
    from fabfile.commands.plan import wanted_stack
    from fabfile.ssh.fleet import connect
    from fabfile.terminal.deploy_dialog import carry_out
    from fabfile.upgrade.database import with_version

    if note is None or note.after != live:
        print(f"nothing to do: PostgreSQL {live.major} runs already")
        return
    new = with_version(inventory, live)
    with connect(new, sudo_password=sudo_password(ctx), echo=print) as fleet:
        carry_out(fleet, wanted_stack("db", new, read_vault(new)), options, yes=True)
        settled(fleet, inventory, live, write=write)
    print("upgraded: to go back: inv upgrade-db --undo; when all is well: inv upgrade-db --finish")


def _undo(ctx: Context, inventory: Inventory, options: Options, *, write: bool, yes: bool) -> None:
    from fabfile.backup import host_run
    from fabfile.ssh.fleet import connect
    from fabfile.upgrade import copy_script
    from fabfile.upgrade.database import removal, with_version

    sudo = sudo_password(ctx)
    with connect(inventory, sudo_password=sudo, dry=is_dry(ctx), echo=print) as fleet:
        host, note = _on_record(fleet, inventory)
        before, after = note.before, note.after
        stack = inventory.postgres.stack
        counted = copy_script.run(host, "written", lambda _line: None).split()[1:]
        if fleet.dry:
            print(DRY)
            return
        since = "{} inserted, {} updated, {} deleted rows".format(*counted)
        ask(
            f"This goes back to PostgreSQL {before.major} with its data of {note.when}. What was "
            f"written since ({since}) stays in volume {stack}_{after.volume} only. Go on?",
            yes=yes,
            refusal=f"{stack}: this would leave {since} behind",
        )
    with connect(with_version(inventory, before), sudo_password=sudo, echo=print) as fleet:
        _switch(fleet, after, before, options, back=True)
        copy_script.run(host_run.find_host(fleet, inventory), "forget", say)
        settled(fleet, inventory, before, write=write)
    print(
        f"undone: {stack} is PostgreSQL {before.major} again, with its data of {note.when}\n"
        f"left behind: {since}; if they may go, on {host.name}: "
        f"{removal(f'{stack}_{after.volume}')}"
    )


def _finish(ctx: Context, inventory: Inventory) -> None:
    from fabfile.ssh.fleet import connect
    from fabfile.terminal.command import open_bucket
    from fabfile.upgrade import copy_script
    from fabfile.upgrade.database import removal

    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        host, note = _on_record(fleet, inventory)
        bucket = open_bucket(inventory)
        for name in inventory.postgres.databases:
            newest = next(iter(bucket.newest(name, datetime.now(UTC)).backups), None)
            if newest is None or newest.flaw or newest.manifest is None or (
                newest.manifest.major != note.after.major
            ):  # fmt: skip
                raise CheckFailedError(
                    f"{name}: its newest backup is none of PostgreSQL {note.after.major}",
                    hint="inv backup.run, then inv backup.drill, then this again",
                )
        copy_script.run(host, "forget", say)
    if is_dry(ctx):
        print(DRY)
        return
    stack = inventory.postgres.stack
    print(
        f"finished: the upgrade to PostgreSQL {note.after.major} can no longer be undone\n"
        f"what may be removed, on {host.name}: {removal(f'{stack}_{note.before.volume}')}"
    )


def _on_record(fleet: Fleet, inventory: Inventory) -> tuple[Host, Note]:
    """The db host, and the upgrade that it runs. Raises SwarmkeepError if there is none."""
    from fabfile.backup import host_run
    from fabfile.deploy.observation import observe_any
    from fabfile.upgrade.database import live_version, noted

    live = live_version(inventory, observe_any(fleet)[1])
    host = host_run.find_host(fleet, inventory)
    note = noted(host)
    if note is None:
        raise SwarmkeepError(
            f"{host.name}: {_NO_NOTE}", hint="it may have been finished, or undone: inv audit"
        )
    if note.after != live:
        raise SwarmkeepError(
            f"{inventory.postgres.service}: runs {live.image} with volume {live.volume}, the "
            f"upgrade on record led to {note.after.image} with {note.after.volume}",
            hint="see inv audit, inv status: there is nothing to undo or to finish",
        )
    return host, note


def _took(start: float) -> str:
    from fabfile.base.units import format_duration

    return format_duration(time.monotonic() - start)
