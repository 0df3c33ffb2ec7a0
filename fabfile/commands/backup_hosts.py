"""inv backup.install, run, logs, uninstall: the backup on the db hosts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.commands.edge import (
    command,
    connected,
    is_dry,
    read_inventory,
    read_vault,
    show_error,
)
from fabfile.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fabfile.transport import Outcome

T = TypeVar("T")

DRY = "dry run, nothing was changed"


@command()
def install(ctx: Context, hosts: str | None = None) -> None:
    """Put script, settings and cron entry on the db hosts."""
    inventory = read_inventory(hosts)
    secrets = read_vault(inventory)

    from fabfile import backup_host
    from fabfile.backup_host import Installed

    def show(name: str, done: Installed) -> None:
        for change in done.changes:
            print(f"{name}: {change}")
        if not done.changes:
            print(f"{name}: nothing to change")
        if done.checked:
            print(f"{name}: {done.checked}")

    with connected(ctx, inventory) as fleet:
        _show_each(backup_host.install(fleet, inventory, secrets), show, dry=is_dry(ctx))


@command()
def run(ctx: Context, hosts: str | None = None) -> None:
    """Make a backup now; exits with the script's code."""
    inventory = read_inventory(hosts)

    from fabfile import backup_host

    with connected(ctx, inventory) as fleet:
        host = backup_host.find_host(fleet, inventory)
        print(f"{host.name}: {backup_host.SCRIPT}", flush=True)
        code = backup_host.run(host, lambda line: print(line, flush=True))
    if is_dry(ctx):
        print(DRY)
    if code:
        raise Exit(code=code)


@command(help={"lines": "how many lines of each host's log (default 50)"})
def logs(ctx: Context, hosts: str | None = None, lines: int = 50) -> None:
    """Show the end of the backup log of every db host."""
    if lines < 1:
        raise ConfigError(f"--lines {lines}: want a number of lines, 1 or more")
    inventory = read_inventory(hosts)

    from fabfile import backup_host

    def show(name: str, text: str) -> None:
        for line in text.splitlines() or [f"no log yet in {backup_host.LOG}"]:
            print(f"{name}: {line}")

    with connected(ctx, inventory) as fleet:
        _show_each(backup_host.logs(fleet, inventory, lines), show)


@command()
def uninstall(ctx: Context, hosts: str | None = None) -> None:
    """Take the backup off the db hosts; dumps and log stay."""
    inventory = read_inventory(hosts)

    from fabfile import backup_host

    def show(name: str, paths: list[str]) -> None:
        for path in paths:
            print(f"{name}: removed {path}")
        if not paths:
            print(f"{name}: nothing to remove")

    with connected(ctx, inventory) as fleet:
        _show_each(backup_host.uninstall(fleet, inventory), show, dry=is_dry(ctx))
    print(f"left in place: {inventory.backup.directory} and {backup_host.LOG}")


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
