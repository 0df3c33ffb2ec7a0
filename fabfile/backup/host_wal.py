"""wal-pg.sh on the db host, as seen from here."""

from __future__ import annotations

from collections.abc import Callable

from fabfile.backup import host_script
from fabfile.backup.host_kit import WAL
from fabfile.ssh.fleet import Host


def run(host: Host, action: str, say: Callable[[str], None]) -> None:
    """Run wal-pg.sh with an action, "base --full" or "mark NAME"; `say` gets what it logs.

    Raises SwarmkeepError with the script's own reason and advice.
    """
    host_script.run(host, WAL, action, say)
