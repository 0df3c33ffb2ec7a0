"""wal-pg.sh on the db host, as seen from here."""

from __future__ import annotations

import re
from collections.abc import Callable

from fabfile.backup.host_cron import wal_command
from fabfile.backup.host_files import guard
from fabfile.backup.host_install import check_owner
from fabfile.backup.host_kit import WAL, kit_of
from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command

USAGE = 2
"""The script's exit code for words that it does not know."""
_LINE = re.compile(r"\S+Z (INFO|WARNING|ERROR) run=\S+ (.*)")


def run(host: Host, action: str, say: Callable[[str], None]) -> None:
    """Run wal-pg.sh with an action, "base --full" or "mark NAME"; `say` gets what it logs.

    Raises SwarmkeepError with the script's own reason and advice.
    """
    errors: list[str] = []

    def read(text: str) -> None:
        match = _LINE.fullmatch(text)
        level, message = match.groups() if match else ("INFO", text)
        if level == "ERROR":
            errors.append(message)
        else:
            say(f"warning: {message}" if level == "WARNING" else message)

    kit = kit_of(host.entry, host.inventory)
    name, _, rest = action.partition(" ")
    line = wal_command(kit, name) + (f" {rest}" if rest else "")
    script = (
        f"{guard(kit, host.inventory)}"
        f"[ -x {WAL} ] || {{ echo 'not installed' >&2; exit 127; }}\n"
        f"exec {line} 2>&1"
    )
    result = host.run(Command(script), timeout=RUN_TIMEOUT, on_line=read)
    check_owner(result, kit)
    if result.exit_code == 127:
        raise SwarmkeepError(
            f"{host.name}: {WAL} is not installed", hint="install it: inv backup.install"
        )
    if result.exit_code == USAGE and not errors:
        raise SwarmkeepError(
            f"{host.name}: {WAL} is of an earlier version and does not know '{action}'",
            hint="install this one: inv backup.install",
        )
    if result.exit_code:
        message, _, advice = (errors or ["it said nothing"])[-1].partition("; next: ")
        raise SwarmkeepError(f"{host.name}: {message}", hint=advice, details=tuple(errors[:-1]))
