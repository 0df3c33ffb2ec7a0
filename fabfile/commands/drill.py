"""inv backup.drill: a backup restored into a throwaway PostgreSQL, as a proof."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.commands.backup import DATABASE_HELP, chosen_databases
from fabfile.commands.restore import AT_HELP, BEFORE_HELP, DRY, KEY_HELP
from fabfile.terminal.command import command, connected, read_inventory, show_error
from fabfile.terminal.identity_dialog import IDENTITY_HELP, identity_for
from fabfile.terminal.restore_dialog import choose, choose_point, counted, run_script

if TYPE_CHECKING:
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.terminal.restore_dialog import Source


@command(
    help={
        "key": KEY_HELP,
        "before": BEFORE_HELP,
        "at": f"replay base backup and WAL instead, {AT_HELP}",
        "database": DATABASE_HELP,
        "app": "also start its app on it and ask whether it works (backup.drill_with_app)",
        "identity": IDENTITY_HELP,
    }
)
def drill(
    ctx: Context,
    hosts: str | None = None,
    key: str = "",
    before: str = "",
    at: str = "",
    database: str = "",
    app: bool = False,
    identity: str = "",
) -> None:
    """Restore a backup into a throwaway PostgreSQL, as a proof."""
    if sum((bool(key), bool(before), bool(at))) > 1:
        raise ConfigError("--key, --before and --at: use at most one of them")
    if at and app:
        raise ConfigError("--at and --app: use at most one of them")
    inventory = read_inventory(hosts)
    if app and inventory.backup.mode == "container":
        raise ConfigError(
            "--app: a drill with an app needs Docker, which a backup in a container has not",
            hint="drill without --app, or set backup.mode: host",
        )
    now = datetime.now(UTC)
    if at:
        name = chosen_databases(inventory, database)[0]
        point = choose_point(inventory, name, at=at, now=now)
        _drill_point(ctx, inventory, name, point, identity)
        return
    chosen: dict[str, BackupSet] = {}
    # What is wrong with one database's backup keeps no other's from being drilled.
    errors: list[SwarmkeepError] = []
    for name in chosen_databases(inventory, database)[: 1 if key else None]:
        try:
            chosen[name] = choose(
                inventory, name, key=key, before=before, now=now, identity=identity
            )
        except CheckFailedError as error:
            errors.append(error)
    if chosen:
        with_app = app or inventory.backup.drill_with_app
        errors += _drill_each(ctx, inventory, chosen, app=with_app, identity=identity)
    for earlier in errors[:-1]:
        show_error(earlier)
    if errors:
        raise errors[-1]


def _drill_point(
    ctx: Context, inventory: Inventory, name: str, source: Source, identity: str
) -> None:
    from fabfile.backup import host_run
    from fabfile.base.units import format_duration
    from fabfile.restore.restore_script import replay_drill_command

    private = identity_for(
        inventory, source.keys, identity, f"WAL of {name}", encrypted=source.encrypted
    )
    with connected(ctx, inventory) as fleet:
        host = host_run.find_host(fleet, inventory)
        done = run_script(host, replay_drill_command(name, source.words), private)
        if fleet.dry:
            print(DRY)
            return
    to_the_end = source.words[1] == "end"
    where = "the end" if to_the_end else f"{source.when:%Y-%m-%d %H:%M:%S} UTC"
    print(
        f"drilled: base backup and WAL replayed to {where}; {name} has {done.tables} tables, "
        f"{done.rows} rows ({format_duration(done.seconds)})"
    )


def _drill_each(
    ctx: Context,
    inventory: Inventory,
    chosen: dict[str, BackupSet],
    *,
    app: bool,
    identity: str,
) -> list[SwarmkeepError]:
    """Drill a set of each database, with its app on it if `app`; return what failed."""
    from fabfile.backup import host_run
    from fabfile.backup.host_cron import drilled_app
    from fabfile.base.units import format_duration
    from fabfile.restore.restore_script import drill_command

    errors: list[SwarmkeepError] = []
    private = {
        name: identity_for(inventory, one.recipients, identity, f"set {one.stamp} of {name}")
        for name, one in chosen.items()
    }
    with connected(ctx, inventory) as fleet:
        host = host_run.find_host(fleet, inventory)
        for name, one in chosen.items():
            answering, words = drilled_app(name, inventory) if app else ("", [])
            try:
                done = run_script(host, drill_command(name, one.stamp, words), private[name])
            except SwarmkeepError as error:
                error.message = f"drill of {name}: {error.message}"
                errors.append(error)
                continue
            if fleet.dry:
                continue
            answered = (
                f", {answering} answered" if answering else ", no app to start" if app else ""
            )
            said = counted(done, compared=one.compared)
            print(
                f"drilled: set {one.stamp} of {name}: {said}{answered} "
                f"({format_duration(done.seconds)})",
                flush=True,
            )
    if fleet.dry:
        print(DRY)
    return errors
