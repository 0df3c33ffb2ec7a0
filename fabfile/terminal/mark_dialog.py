"""The mark that risky commands set by themselves, where WAL is archived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fabfile.base.errors import SwarmkeepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fabfile.ssh.fleet import Fleet


def set_mark(fleet: Fleet, name: str, say: Callable[[str], None]) -> None:
    """Give the moment before a change a name, and say how to go back to it. That it cannot be done
    holds up nothing: it is said.
    """
    if not fleet.inventory.backup.pitr or fleet.dry:
        return
    from fabfile.backup import host_run, host_wal

    try:
        host_wal.run(host_run.find_host(fleet, fleet.inventory), f"mark {name}", lambda _line: None)
    except SwarmkeepError as error:
        say(f"warning: no mark was set: {error.message}")
        return
    say(f"marked: to go back to before this: inv backup.restore --at-mark {name} --replace")
