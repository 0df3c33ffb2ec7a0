"""Waiting for a stack to converge, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.stacks import Wanted
from fabfile.swarm.convergence import Baseline, Progress, baseline, judge
from fabfile.swarm.state import Cluster

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
        progress = progress_of(cluster, wanted, before)
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
    manager processor time while it has work to do.
    """
    return max(POLL_SECONDS, min(MOST_SECONDS, waited / 10))


def progress_of(cluster: Cluster, wanted: Wanted, before: Baseline) -> tuple[Progress, ...]:
    """How far each wanted service is."""
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
