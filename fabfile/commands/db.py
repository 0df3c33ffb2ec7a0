"""inv db.reindex: indexes after a change of collations."""

from __future__ import annotations

from invoke.context import Context

from fabfile.base.errors import CheckFailedError
from fabfile.terminal.backup_container_dialog import refuse_in_container
from fabfile.terminal.command import command, connected, is_dry, read_inventory
from fabfile.terminal.deploy_dialog import ask, say

_NOT_BUILT = 45


@command(help={"yes": "do not ask before indexes are built"})
def reindex(ctx: Context, hosts: str | None = None, yes: bool = False) -> None:
    """Build indexes anew whose collation has changed."""
    from fabfile.backup import host_run, host_script
    from fabfile.backup.host_kit import REINDEX

    inventory = read_inventory(hosts)
    refuse_in_container(inventory, "db.reindex")
    with connected(ctx, inventory) as fleet:
        host = host_run.find_host(fleet, inventory)
        found = host_script.run(host, REINDEX, "check", say)
        for line in found.splitlines():
            say(line)
        if not found:
            print("nothing to do: every collation is as it was recorded")
            return
        indexes = sum(line.startswith("index ") for line in found.splitlines())
        ask(
            f"This builds {indexes} indexes anew, beside the old ones, while clients go on. Go on?",
            yes=yes,
            refusal=f"{inventory.postgres.stack}: this would build {indexes} indexes anew",
        )
        host_script.run(host, REINDEX, "reindex", say, {_NOT_BUILT: CheckFailedError})
    if is_dry(ctx):
        print("dry run, nothing was changed")
