"""What doctor finds: one check of a host, of the Swarm, or of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from fabfile.base.check import Check
from fabfile.base.errors import UNREACHABLE, SwarmkeepError


@dataclass(frozen=True)
class Finding:
    """One check of one group: a host's name, "swarm" or "here".

    `unreachable` marks a failure that only says that something could not be asked.
    """

    group: str
    check: Check
    unreachable: bool = False


def failure(group: str, name: str, error: SwarmkeepError) -> Finding:
    """An error as a failed check."""
    return Finding(
        group,
        Check(name, False, error.message, error.hint),
        unreachable=error.exit_code == UNREACHABLE,
    )
