"""inv backup.install, run, logs, uninstall: the backup on the db hosts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.commands.keys import ONE_RECIPIENT
from fabfile.terminal import backup_container_dialog as container_dialog
from fabfile.terminal.command import (
    command,
    connected,
    is_dry,
    read_inventory,
    read_vault,
    show_error,
)
from fabfile.terminal.deploy_dialog import hosts_on_record, show_round_trips

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet, Outcome

T = TypeVar("T")

DRY = "dry run, nothing was changed"


@command(help={"take-over": "also where a host's settings are another project's"})
def install(ctx: Context, hosts: str | None = None, take_over: bool = False) -> None:
    """Put the backup on the db and app hosts."""
    inventory = read_inventory(hosts)
    secrets = read_vault(inventory)

    from fabfile.backup import host_install
    from fabfile.backup.host_install import Installed
    from fabfile.deploy import drilled_apps

    def show(name: str, done: Installed) -> None:
        for change in done.changes:
            print(f"{name}: {change}")
        if done.kept:
            print(f"{name}: keeps its scripts, version {done.kept}, which are newer than ours")
        if not done.changes:
            print(f"{name}: nothing to change")
        if done.checked:
            print(f"{name}: {done.checked}")

    if inventory.backup.mode == "container":
        with connected(ctx, inventory) as fleet:
            _warn(inventory)
            container_dialog.install(fleet, inventory, secrets)
            _note_images(fleet)
        if is_dry(ctx):
            print(DRY)
        return
    apps = drilled_apps.settings(inventory, secrets)
    with connected(ctx, inventory) as fleet:
        outcomes = hosts_on_record(
            fleet,
            "backup.install",
            lambda: host_install.install(fleet, inventory, secrets, apps, take_over=take_over),
            lambda done: done.changes if done else (),
        )
        _warn(inventory)
        if not all(o.value.knows_images for o in outcomes if o.value):
            _note_images(fleet)
        show_round_trips(fleet)
        _show_each(outcomes, show, dry=is_dry(ctx))
        if any(o.value.container for o in outcomes if o.value) and not is_dry(ctx):
            # From now on the hosts' cron makes the backup.
            container_dialog.remove(fleet, inventory)


def _warn(inventory: Inventory) -> None:
    if len(inventory.backup.recipients) == 1:
        print(f"warning: {ONE_RECIPIENT}")


def _note_images(fleet: Fleet) -> None:
    """Tell the db hosts what runs now. The next deploy does it too: nothing depends on it here."""
    from contextlib import suppress

    from fabfile.backup import host_run
    from fabfile.deploy import observation
    from fabfile.swarm.state import images_of

    with suppress(SwarmkeepError):
        cluster = observation.observe_any(fleet)[1]
        host_run.note_images(fleet, images_of(cluster, fleet.inventory.data_stacks))


@command()
def run(ctx: Context, hosts: str | None = None) -> None:
    """Make a backup now, database and attachments."""
    inventory = read_inventory(hosts)

    from fabfile.backup import host_run

    with connected(ctx, inventory) as fleet:
        # Each host that is needed is found before the first one begins.
        database = host_run.find_host(fleet, inventory)
        with_files = inventory.with_role("app") if inventory.backup.files else ()
        apps = [fleet.host(entry) for entry in with_files]
        codes = host_run.run_all(fleet, database, apps, lambda line: print(line, flush=True))
    if is_dry(ctx):
        print(DRY)
    if any(codes):
        raise Exit(code=next(filter(None, codes)))


@command(help={"lines": "how many lines of each host's log (default 50)"})
def logs(ctx: Context, hosts: str | None = None, lines: int = 50) -> None:
    """Show the end of the backup log of every host."""
    if lines < 1:
        raise ConfigError(f"--lines {lines}: must be a number of lines, 1 or more")
    from fabfile.backup import host_run

    inventory = read_inventory(hosts)

    def show(name: str, text: str) -> None:
        for line in text.splitlines() or ["no log yet"]:
            print(f"{name}: {line}")

    with connected(ctx, inventory) as fleet:
        _show_each(host_run.logs(fleet, inventory, lines), show)


@command()
def uninstall(ctx: Context, hosts: str | None = None) -> None:
    """Take the backup off the hosts; dumps and logs stay."""
    # In whichever mode it is there: hosts.yaml may have been changed since.
    inventory = read_inventory(hosts)

    from fabfile.backup import host_uninstall

    def show(name: str, paths: list[str]) -> None:
        for path in paths:
            print(f"{name}: removed {path}")
        if not paths:
            print(f"{name}: nothing to remove")

    with connected(ctx, inventory) as fleet:
        if inventory.backup.mode == "container" or container_dialog.is_there(fleet):
            container_dialog.remove(fleet, inventory)
        outcomes = hosts_on_record(
            fleet,
            "backup.uninstall",
            lambda: host_uninstall.uninstall(fleet, inventory),
            lambda paths: [f"removed {path}" for path in paths or ()],
        )
        _show_each(outcomes, show, dry=is_dry(ctx))
    logs = inventory.named("/var/log/backup-*") + ".log"
    print(f"left in place: {inventory.backup.directory} and {logs}")


def _show_each(
    outcomes: Sequence[Outcome[T]], show: Callable[[str, T], None], *, dry: bool = False
) -> None:
    """Show what every host did; afterwards exit with the worst host's code, if one failed.

    In a dry run the commands have been shown, and no host did anything.
    """
    errors = []
    for outcome in outcomes:
        if outcome.error:
            errors.append(outcome.error)
        elif outcome.value is not None and not dry:
            show(outcome.entry.name, outcome.value)
    if dry:
        print(DRY)
    sys.stdout.flush()
    for error in errors:
        show_error(error)
    if errors:
        raise Exit(code=max(error.exit_code for error in errors))
