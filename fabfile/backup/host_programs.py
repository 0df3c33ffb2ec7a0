"""The programs that the scripts need on a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabfile.config.inventory import HostEntry, Inventory

from fabfile.backup.host_kit import kit_of

# Debian packages by the program that is looked for.
_PACKAGES = {"aws": "awscli", "cron": "cron", "logrotate": "logrotate"}
_COMPRESSORS = {
    "auto": {"libdeflate-gzip": "libdeflate-tools"},
    "libdeflate": {"libdeflate-gzip": "libdeflate-tools"},
    "igzip": {"igzip": "isal"},
}


def programs(entry: HostEntry, inventory: Inventory) -> dict[str, str]:
    """What must be there on a host: program -> Debian package."""
    packages = _PACKAGES | ({"curl": "curl"} if inventory.backup.ping else {})
    packages |= {"age": "age"} if inventory.backup.recipients else {}
    if not kit_of(entry, inventory).of_database:
        return packages
    tool = inventory.backup.compression.partition("-")[0]
    return packages | {"pigz": "pigz"} | _COMPRESSORS.get(tool, {})
