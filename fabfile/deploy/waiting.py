"""Waiting for a stack to converge, with a deadline; and taking a failed change back."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.remote_command import Result
from fabfile.swarm.convergence import Baseline, Progress, baseline, judge
from fabfile.swarm.docker_commands import label_node
from fabfile.swarm.placement import LabelChange, undo
from fabfile.swarm.state import Cluster, Service

POLL_SECONDS, MOST_SECONDS = 0.5, 2.0
"""Between two looks: at first, and at most."""
ROLLBACK_SECONDS = 120.0
"""How long a rollback of ours may take before we stop watching it."""

Say = Callable[[str], None]


class Look(Protocol):
    """Reads the whole cluster; given what was seen of it, only what moves: see `observe`."""

    def __call__(self, seen: Cluster | None = None) -> Cluster:
        """What there is now."""


def await_stack(
    look: Look,
    wanted: Wanted,
    before: Baseline,
    *,
    timeout: float,
    say: Say,
    logs: Callable[[str], str],
) -> Cluster:
    """Look again and again until every wanted service has converged; return the last look.

    Raises SwarmkeepError with the failing task's error and its last log lines, on a
    rollback, a pause, a task that keeps failing or finds no node, or after `timeout`
    seconds.
    """
    start = time.monotonic()
    end = start + timeout
    shown: dict[str, str] = {}
    seen: Cluster | None = None
    while True:
        cluster = look(seen)
        progress = _progress(cluster, wanted, before)
        for one in progress:
            line = f"{one.service.name}: {one.running}/{one.wanted} running ({one.doing})"
            if not one.done and shown.get(one.service.name) != line:
                say(line)
            shown[one.service.name] = line
        failed = next((one for one in progress if one.failure), None)
        if failed:
            raise _failure(failed, cluster, wanted, logs)
        if {one.service.name for one in progress if one.done} >= set(wanted.services):
            if seen is None:
                return cluster
            # What is returned must be whole.
            seen = None
            continue
        if time.monotonic() > end:
            raise _deadline(progress, cluster, wanted, timeout, logs)
        time.sleep(_pause(time.monotonic() - start))
        seen = cluster


def await_settled(look: Look, stack: str, say: Say) -> Cluster:
    """Wait until Swarm is done with what it was left with (a rollback); return the last look.

    It is no error if it does not come to an end: there may be nothing it can do alone.
    """
    end = time.monotonic() + ROLLBACK_SECONDS
    told = False
    cluster = None
    while True:
        cluster = look(cluster)
        busy = any(
            one.service.update.get("State") in ("updating", "rollback_started")
            or one.running != one.wanted
            for one in judge(cluster, stack, baseline(cluster))
        )
        if not busy or time.monotonic() > end:
            return cluster
        if not told:
            say(f"{stack}: waiting until Swarm has it running")
            told = True
        time.sleep(POLL_SECONDS)


def _pause(waited: float) -> float:
    """Seconds until the next look. What takes long is looked at less often: each look costs the
    manager's processor a tenth of a second and more, while it has work to do.
    """
    return max(POLL_SECONDS, min(MOST_SECONDS, waited / 20))


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
    end = time.monotonic() + ROLLBACK_SECONDS
    olds = {service.name for service in before.stack(wanted.name)}
    cluster = None
    while time.monotonic() < end:
        cluster = look(cluster)
        now = {service.name for service in cluster.stack(wanted.name)}
        # As if seen for the first time: the failures of the change are not the old version's.
        quiet = _progress(cluster, wanted, baseline(cluster))
        if now <= olds and all(p.running == p.wanted for p in quiet):
            return True
        time.sleep(POLL_SECONDS)
    return False


def _ours(services: tuple[Service, ...], wanted: Wanted) -> list[Service]:
    """Without those of the stack that its compose file no longer has."""
    return [service for service in services if service.name in wanted.services]


def _progress(cluster: Cluster, wanted: Wanted, before: Baseline) -> tuple[Progress, ...]:
    found = judge(cluster, wanted.name, before)
    return tuple(one for one in found if one.service.name in wanted.services)


def _failure(
    one: Progress, cluster: Cluster, wanted: Wanted, logs: Callable[[str], str]
) -> SwarmkeepError:
    message = f"{one.service.name}: {one.failure}"
    details: list[str] = []
    if one.culprit:
        node = next((n.name for n in cluster.nodes if n.id == one.culprit.node_id), "")
        where = f" on {node}" if node else ""
        reason = one.culprit.error or one.culprit.message
        message += f": {wanted.redact(reason)}"
        lines = logs(one.culprit.id).strip().splitlines()
        if lines:
            details = [f"last log lines of its task{where}:", *map(wanted.redact, lines)]
    return SwarmkeepError(
        message,
        hint="fix the cause and deploy again; inv status shows the state now",
        details=tuple(details),
    )


def _deadline(
    progress: tuple[Progress, ...],
    cluster: Cluster,
    wanted: Wanted,
    timeout: float,
    logs: Callable[[str], str],
) -> SwarmkeepError:
    late = next((one for one in progress if not one.done), None)
    if late is None:
        missing = sorted(set(wanted.services) - {one.service.name for one in progress})
        return SwarmkeepError(
            f"{', '.join(missing)}: Swarm has no such service after {timeout:.0f} s",
            hint="somebody may have removed it meanwhile: deploy again",
        )
    tasks = cluster.tasks_of(late.service)
    newest = tasks[0] if tasks else None
    text = f"not converged after {timeout:.0f} s, {late.running}/{late.wanted} running"
    if newest:
        text += f", its newest task is {newest.state}"
    return _failure(
        Progress(late.service, late.running, late.wanted, False, "late", text, newest),
        cluster,
        wanted,
        logs,
    )
