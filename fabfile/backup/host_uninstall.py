"""Taking the backup off its hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fabfile.backup import host_files, host_kit
from fabfile.backup.host_cron import wal_command
from fabfile.backup.host_install import check_owner
from fabfile.backup.host_kit import SHARED, kit_of
from fabfile.ssh.remote_command import Command, succeeded

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet, Host, Outcome


def uninstall(fleet: Fleet, inventory: Inventory) -> list[Outcome[list[str]]]:
    """Remove settings, credentials, cron and logrotate files from every host, and the scripts
    where no other project needs them.

    Dumps and logs stay: they are the user's data. Returns the removed paths per host.
    """

    def remove(host: Host) -> list[str]:
        kit = kit_of(host.entry, inventory)
        every = " ".join(f"/etc/{one.name}.conf /etc/{one.name}-*.conf" for one in host_kit.KITS)
        same = f"/etc/{kit.name}.conf /etc/{kit.name}-*.conf"
        own = [path for path in kit.scripts if path not in SHARED]
        started = kit.wal_started(inventory.backup.directory)
        stop = f"[ ! -e {started} ] || {wal_command(kit, 'stop')} >&2 || exit\n"
        command = Command(
            f"{host_files.guard(kit, inventory)}"
            "gone() { for f; do [ ! -e $f ] || { rm -f $f && echo $f; } || exit 1; done; }\n"
            "used() { for c; do [ ! -e $c ] || return 0; done; return 1; }\n"
            # The schedule first: what it runs would begin the archiving of WAL anew.
            f"gone {kit.cron}\n{stop if kit.of_database else ''}"
            f"gone {' '.join(host_files.removable(kit))}\n"
            f"gone {' '.join(kit.metrics(inventory.backup.metrics_directory))}\n"
            f"used {same} || gone {' '.join(own)}\n"
            f"used {every} || gone {' '.join(SHARED)}\n"
        )
        result = host.run(command)
        check_owner(result, kit)
        return succeeded(result, "removing the backup").stdout.split()

    return fleet.fan_out(host_kit.hosts(inventory), remove)
