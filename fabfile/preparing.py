"""Labels and network by themselves, without a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabfile import audit, lock
from fabfile.change_script import ChangeScript
from fabfile.endings import Options
from fabfile.errors import SwarmkeepError
from fabfile.placement import LabelChange
from fabfile.transport import Command, Fleet

Say = Callable[[str], None]


def prepare_swarm(
    fleet: Fleet,
    labels: Sequence[LabelChange],
    *,
    network: str,
    options: Options,
    say: Say,
) -> list[str]:
    """Set labels and make a network (unless it is ""), on record; return a line per change."""
    script = ChangeScript()
    script.labels(labels)
    if network:
        script.network(network)
    if not script.steps:
        return []
    manager = fleet.first_manager()
    if fleet.dry:
        manager.run(Command(script.text))
        return script.done
    with lock.held(manager, options.origin, options.command, wait=options.wait, say=say) as lease:
        error = ""
        try:
            script.check(lease.change(script.text))
        except SwarmkeepError as failure:
            error = failure.message
            raise
        finally:
            outcome = "failed" if error else "ok"
            line = audit.entry(
                options.origin, options.command, outcome, changes=script.done, error=error
            )
            lease.release(audit.append_script(line))
    return script.done
