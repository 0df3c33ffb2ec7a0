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


def drilled_app(database: str, inventory: Inventory) -> tuple[str, list[str]]:
    """The app that a drill of a database can start, and restore-pg.sh's words for it; "" for none.

    How other apps than NocoDB are started is on the host, where backup.drill_with_app is true.
    """
    if database == inventory.postgres.database:
        return "NocoDB", ["--app", inventory.app.image]
    app = inventory.other_app(inventory.app_of(database))
    return (app.name, ["--with-app"]) if app and app.drillable else ("", [])


def _drill(database: str, kit: Kit, inventory: Inventory) -> str:
    words = [RESTORE, "drill", "--database", database, "--latest"]
    words += ["--config", kit.config] if kit.project else []
    words += drilled_app(database, inventory)[1] if inventory.backup.drill_with_app else []
    # cron takes a % for the end of the line.
    return shlex.join(words).replace("%", r"\%")
