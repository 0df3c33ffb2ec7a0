"""What upgrades share at the terminal: what must be there before, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fabfile.base.errors import CheckFailedError, ConfigError
from fabfile.terminal.deploy_dialog import say

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet
    from fabfile.upgrade.copy_script import Version


def check_drilled(inventory: Inventory, what: str = "nothing is upgraded") -> None:
    """Raise CheckFailedError unless every database's newest set was restored in a drill.

    `what` is what does not happen then.
    """
    from fabfile.terminal.command import open_bucket

    bucket = open_bucket(inventory)
    for name in inventory.postgres.databases:
        newest = next(iter(bucket.newest(name, datetime.now(UTC)).backups), None)
        if newest is None or newest.rung != "drilled":
            found = f"set {newest.stamp} is {newest.rung}" if newest else "there is no set"
            raise CheckFailedError(
                f"{name}: {found}, and {what} without a set that was drilled",
                hint=f"inv backup.run, then: inv backup.drill --database {name}",
            )
        say(f"{name}: set {newest.stamp} was drilled")


def settled(fleet: Fleet, inventory: Inventory, now: Version, *, write: bool) -> None:
    """What follows a switch: a first backup, the cluster accepted, the hosts file."""
    from fabfile.backup import host_run
    from fabfile.backup.verify import unaccepted
    from fabfile.swarm import operator
    from fabfile.terminal.command import open_bucket

    host = host_run.find_host(fleet, inventory)
    print("first backup of it", flush=True)
    code = host_run.run(host, say)
    if code:
        print("warning: the backup failed; next: inv backup.run, then inv backup.accept")
    else:
        bucket = open_bucket(inventory)
        for name in inventory.postgres.databases:
            newest = next(iter(bucket.newest(name, datetime.now(UTC)).backups), None)
            before = unaccepted(newest, bucket.accepted_cluster(name)) if newest else ""
            if newest and newest.manifest and before:
                bucket.accept_cluster(name, newest.manifest.cluster, before, operator.find().who)
    values = {("images", "postgres"): now.image, ("db", "volume"): now.volume}
    hosts_file(inventory, values, write=write)


def hosts_file(
    inventory: Inventory,
    values: Mapping[tuple[str, str], str],
    *,
    write: bool,
    until_then: str = "other deploys are refused or go back until then",
) -> None:
    """Have the hosts file say what runs, or tell what to change in it; `values` by section and
    key, `until_then` is why.
    """
    from fabfile.config import hosts_file as file
    from fabfile.config import hosts_file_edit

    lines = ", ".join(
        f"{f'{section}.' if section else ''}{key}: {value}"
        for (section, key), value in values.items()
    )
    path = inventory.path
    try:
        text = path.read_text(encoding="utf-8")
        new = hosts_file_edit.with_values(text, values)
        if file.parse(new, path) == inventory:
            return
        if write:
            hosts_file_edit.write(path, new)
            print(f"{path}: {lines}")
            return
    except (ConfigError, OSError) as error:
        print(f"warning: {path} could not be changed: {error}")
    print(f"next: write into {path}: {lines}; {until_then}")
