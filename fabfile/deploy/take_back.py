"""Taking back a deploy that failed: labels, services that are new, those that were changed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy import waiting
from fabfile.deploy.stacks import Wanted
from fabfile.deploy.waiting import Look, Say, progress_of
from fabfile.ssh.remote_command import Result
from fabfile.swarm.convergence import baseline
from fabfile.swarm.docker_commands import label_node
from fabfile.swarm.placement import LabelChange, undo
from fabfile.swarm.state import Cluster, Service


def take_back(
    change: Callable[[str], Result],
    look: Look,
    wanted: Wanted,
    before: Cluster,
    labels: Sequence[LabelChange],
    say: Say,
) -> None:
    """After a failed deploy: put back labels, remove services that are new, roll back changed ones.

    Swarm rolls back by itself where it saw a task fail; it does not where a task finds no
    node or the deadline passed. `labels` are those that were to be changed. `change` runs a
    script on the manager. Raises SwarmkeepError for what could not be put back.
    """
    now = look()
    undone = bool(labels)
    for back in undo(labels, before, now):
        _must(
            change(label_node(back.address, back.add, back.remove)), f"labelling node {back.node}"
        )
        say(f"node {back.node}: {back}, as it was")
    for service in _ours(now.stack(wanted.name), wanted):
        old = before.service(service.name)
        name = shlex.quote(service.name)
        rolling = str(service.update.get("State", "")).startswith("rollback")
        if old is None:
            _must(change(f"docker service rm {name}"), f"removing {service.name}")
            say(f"{service.name}: removed again, it never worked")
        elif old.spec != service.spec and not rolling:
            _must(
                change(f"docker service rollback --detach {name}"), f"rolling back {service.name}"
            )
            say(f"{service.name}: rolling back")
        undone = undone or old is None or old.spec != service.spec or rolling
    if undone and not _await_old(look, wanted, before):
        say(f"warning: {wanted.name} does not run as before yet: see inv status")


def _must(result: Result, what: str) -> None:
    if result.exit_code:
        said = result.stderr.strip().splitlines()
        raise SwarmkeepError(f"{what}: {said[-1] if said else f'exit code {result.exit_code}'}")


def _await_old(look: Look, wanted: Wanted, before: Cluster) -> bool:
    """Until the old tasks run again; whether they do before the time is over."""
    end = time.monotonic() + waiting.ROLLBACK_SECONDS
    olds = {service.name for service in before.stack(wanted.name)}
    cluster = None
    while time.monotonic() < end:
        cluster = look(cluster)
        now = {service.name for service in cluster.stack(wanted.name)}
        # As if seen for the first time: the failures of the change are not the old version's.
        quiet = progress_of(cluster, wanted, baseline(cluster))
        if now <= olds and all(p.running == p.wanted for p in quiet):
            return True
        time.sleep(waiting.POLL_SECONDS)
    return False


def _ours(services: tuple[Service, ...], wanted: Wanted) -> list[Service]:
    """Without those of the stack that its compose file no longer has."""
    return [service for service in services if service.name in wanted.services]
