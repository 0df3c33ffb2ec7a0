"""The cron lines of a host: the backup's, and the drills'."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from fabfile.backup.host_kit import RESTORE, WAL, Kit
from fabfile.backup.script_files import from_template

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory


def cron_entry(kit: Kit, inventory: Inventory) -> bytes:
    """The /etc/cron.d file with the schedules of hosts.yaml."""
    backup = inventory.backup
    entry = from_template("backup.cron", SCHEDULE=backup.schedule, SCRIPT=kit.command, LOG=kit.log)
    if not kit.of_database:
        return entry
    if backup.drill_schedule:
        lines = [_drill(name, kit, inventory) for name in inventory.postgres.databases]
        if backup.pitr:
            lines.append(_replay(inventory.postgres.database, kit))
        drills = "; ".join(lines)
        entry += f"{backup.drill_schedule} root ({drills}) >>{kit.log} 2>&1\n".encode()
    if backup.pitr:
        for when, action in (("* * * * *", "archive"), (backup.base_schedule, "base")):
            entry += f"{when} root {wal_command(kit, action)} >>{kit.log} 2>&1\n".encode()
    return entry


def wal_command(kit: Kit, action: str) -> str:
    """What runs wal-pg.sh with this project's settings."""
    return shlex.join([WAL, action, *(["--config", kit.config] if kit.project else [])])


def _replay(database: str, kit: Kit) -> str:
    words = [RESTORE, "drill", "--database", database, "--at", "end"]
    return shlex.join([*words, *(["--config", kit.config] if kit.project else [])])


def _drill(database: str, kit: Kit, inventory: Inventory) -> str:
    words = [RESTORE, "drill", "--database", database, "--latest"]
    words += ["--config", kit.config] if kit.project else []
    if inventory.backup.drill_with_app and database == inventory.postgres.database:
        words += ["--app", inventory.app.image]
    # cron takes a % for the end of the line.
    return shlex.join(words).replace("%", r"\%")
