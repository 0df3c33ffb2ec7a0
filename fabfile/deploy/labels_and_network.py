"""Labels and network by themselves, without a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabfile.deploy.change_script import ChangeScript
from fabfile.deploy.finish_script import Options
from fabfile.deploy.locked_change import Record, locked
from fabfile.ssh.fleet import Fleet
from fabfile.ssh.remote_command import Command
from fabfile.swarm.placement import LabelChange

Say = Callable[[str], None]


def change_script(labels: Sequence[LabelChange], network: str) -> ChangeScript:
    """The script that sets labels and makes a network (unless it is "")."""
    script = ChangeScript()
    script.labels(labels)
    if network:
        script.network(network)
    return script


def prepare_swarm(
    fleet: Fleet,
    labels: Sequence[LabelChange],
    *,
    network: str,
    options: Options,
    say: Say,
) -> list[str]:
    """Set labels and make a network (unless it is ""), on record; return a line per change."""
    script = change_script(labels, network)
    if not script.steps:
        return []
    manager = fleet.first_manager()
    if fleet.dry:
        manager.run(Command(script.text))
        return script.done
    record = Record()
    with locked(manager, options, record, say=say) as lease:
        script.check(lease.change(script.text))
        record.changes += script.done
    return script.done
