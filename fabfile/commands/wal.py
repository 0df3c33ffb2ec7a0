"""inv backup.base, mark: point-in-time recovery on the db host."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import command, connected, is_dry, read_inventory
from fabfile.terminal.deploy_dialog import say

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory

DRY = "dry run, nothing was changed"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)


@command()
def base(ctx: Context, hosts: str | None = None) -> None:
    """Make a full base backup for point-in-time recovery."""
    inventory = _with_pitr(hosts)
    from fabfile.backup import host_run, host_wal

    with connected(ctx, inventory) as fleet:
        host_wal.run(host_run.find_host(fleet, inventory), "base --full", say)
    if is_dry(ctx):
        print(DRY)


@command(positional=["name"], help={"name": "letters, digits, _ . - and at most 40 of them"})
def mark(ctx: Context, name: str, hosts: str | None = None) -> None:
    """Give this moment a name, to go back to it later."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"NAME {name}: want letters, digits, _ . - and at most 40 of them")
    inventory = _with_pitr(hosts)
    from fabfile.backup import host_run, host_wal

    with connected(ctx, inventory) as fleet:
        host_wal.run(host_run.find_host(fleet, inventory), f"mark {name}", say)
    if is_dry(ctx):
        print(DRY)
        return
    print(f"to go back to it: inv backup.restore --at-mark {name} [--replace]")


def _with_pitr(hosts: str | None) -> Inventory:
    inventory = read_inventory(hosts)
    if not inventory.backup.pitr:
        raise ConfigError(
            "backup.pitr is off in hosts.yaml: no WAL is kept",
            hint="set backup.pitr: true, then inv backup.install",
        )
    return inventory
