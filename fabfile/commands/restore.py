"""inv backup.restore, swap, get-files: the way back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.commands.backup import DATABASE_HELP, chosen_databases
from fabfile.terminal.command import command, connected, read_inventory
from fabfile.terminal.deploy_dialog import WAIT_HELP, ask, say
from fabfile.terminal.identity_dialog import IDENTITY_HELP, identity_for
from fabfile.terminal.restore_dialog import (
    bring_files,
    carry_out,
    choose_source,
    counted,
    made,
)

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.restore.restore_script import Restored
    from fabfile.terminal.restore_dialog import Source

KEY_HELP = "a set's time stamp (inv backup.list), or the key of any of its parts"
BEFORE_HELP = "the newest set made before a time: 2026-11-22, 2026-11-22T02:15Z, 3d (days ago)"
AT_HELP = "as it was at a second: '2026-11-22 10:48:55' (UTC), 20m (minutes ago), or now"
DRY = "dry run, nothing was changed"


@command(
    help={
        "latest": "the newest set (default)",
        "key": KEY_HELP,
        "before": BEFORE_HELP,
        "at": AT_HELP,
        "at-mark": "as it was when inv backup.mark NAME was called",
        "database": f"{DATABASE_HELP} (default: NocoDB's)",
        "into": "name of the new database (default: shows what it is)",
        "replace": "let it take the live database's place, which is kept under another name",
        "files": "also fetch NocoDB's attachments that the app hosts lack",
        "identity": IDENTITY_HELP,
        "jobs": "how many indexes to build at a time (default: one for each core)",
        "yes": "do not ask before the live database is replaced",
        "wait": WAIT_HELP,
    }
)
def restore(
    ctx: Context,
    hosts: str | None = None,
    latest: bool = False,
    key: str = "",
    before: str = "",
    at: str = "",
    at_mark: str = "",
    database: str = "",
    into: str = "",
    replace: bool = False,
    files: bool = False,
    jobs: int = 0,
    identity: str = "",
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Bring a backup back as a new database."""
    from fabfile.backup import host_run, selection
    from fabfile.restore.restore_script import restore_command
    from fabfile.terminal.mark_dialog import set_mark

    if sum((latest, bool(key), bool(before), bool(at), bool(at_mark))) > 1:
        raise ConfigError("--latest, --key, --before, --at and --at-mark: use at most one of them")
    if into and replace:
        raise ConfigError("--into and --replace: use at most one of them")
    if not 0 <= jobs <= 99:
        raise ConfigError(f"--jobs {jobs}: must be a number from 1 to 99")
    inventory = read_inventory(hosts)
    name = chosen_databases(inventory, database)[0]
    now = datetime.now(UTC)
    if into:
        selection.check_name("--into", into)
    source = choose_source(
        inventory,
        name,
        key=key,
        before=before,
        at=at,
        at_mark=at_mark,
        now=now,
        identity=identity,
    )
    private = identity_for(
        inventory, source.keys, identity, f"backup of {name}", encrypted=source.encrypted
    )
    if replace:
        _confirm(f"database {name} by what it was {made(source.when, now)}", yes=yes)
        fresh, kept = (selection.new_name(name, word, now) for word in ("restored", "replaced"))
    else:
        fresh, kept = into or selection.new_name(name, "", source.when), ""
    line = restore_command(name, source.words, fresh, jobs, goes_live=replace)
    start = time.monotonic()
    with connected(ctx, inventory) as fleet:
        host = host_run.find_host(fleet, inventory)
        if replace:
            set_mark(fleet, "restore", say)
        label = f"backup.restore {source.words[1]} {'--replace' if replace else f'--into {fresh}'}"
        done = carry_out(fleet, host, label, line, (name, fresh, kept), wait=wait, identity=private)
        if files:
            bring_files(fleet, identity)
    if done is None:
        print(DRY)
        return
    _print_result(done, name, "" if replace else fresh, source, time.monotonic() - start)
    if replace:
        _print_way_back(inventory, name, kept)


@command(name="get-files", help={"identity": IDENTITY_HELP})
def get_files(ctx: Context, hosts: str | None = None, identity: str = "") -> None:
    """Bring back the attachments that are missing."""
    inventory = read_inventory(hosts)
    with connected(ctx, inventory) as fleet:
        bring_files(fleet, identity)
    if fleet.dry:
        print(DRY)


@command(
    positional=["name"],
    help={
        "name": "the database that becomes the live one",
        "database": "whose place it takes (default: NocoDB's)",
        "yes": "do not ask before the live database is replaced",
        "wait": WAIT_HELP,
    },
)
def swap(
    ctx: Context,
    name: str,
    hosts: str | None = None,
    database: str = "",
    yes: bool = False,
    wait: bool = False,
) -> None:
    """Let another database take the live one's place."""
    from fabfile.backup import host_run, selection

    inventory = read_inventory(hosts)
    selection.check_name("NAME", name)
    live = chosen_databases(inventory, database)[0]
    if name == live:
        raise ConfigError(f"{name}: is the live database")
    _confirm(f"database {live} by {name}", yes=yes)
    kept = selection.new_name(live, "replaced", datetime.now(UTC))
    with connected(ctx, inventory) as fleet:
        host = host_run.find_host(fleet, inventory)
        label = f"backup.swap {name}"
        if carry_out(fleet, host, label, "", (live, name, kept), wait=wait) is None:
            print(DRY)
            return
    print(f"swapped: {name} is {live} now")
    _print_way_back(inventory, live, kept)


def _confirm(what: str, *, yes: bool) -> None:
    ask(
        f"This replaces {what}. What was written since is in the kept one only. Go on?",
        yes=yes,
        refusal=f"this would replace {what}",
    )


def _print_result(done: Restored, name: str, into: str, source: Source, seconds: float) -> None:
    from fabfile.base.units import format_duration

    where = f"{name}, into {into}" if into else name
    print(
        f"restored: {where}, as it was at {source.when:%Y-%m-%d %H:%M:%S} UTC: "
        f"{counted(done, compared=source.compared)} ({format_duration(seconds)})"
    )


def _print_way_back(inventory: Inventory, name: str, kept: str) -> None:
    which = "" if name == inventory.postgres.database else f" --database {name}"
    print(f"the database before is kept as {kept}; to go back to it: inv backup.swap {kept}{which}")
