"""Has a stack converged? Pure judgement of what a manager reports; no I/O, no clock.

Converged means: every service has its update completed and its wanted number of tasks of
the wanted specification running. Swarm reports a task as running only after its health
check, where it has one, has passed for the first time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabfile.swarm.state import Cluster, Node, Service, Task, age_seconds, seconds_between

FAILURES_ALLOWED = 2
"""Failed tasks of one service that are put down to bad luck; one more is a failed deploy."""
UNPLACED_SECONDS = 15
"""How long a task may find no node: a port or a volume of its predecessor may still be busy."""
STEADY_SECONDS = 5
"""How long a task without a health check must run to count; with one, its health decides."""

_DEFAULT_GRACE_NANOSECONDS = 10_000_000_000
_DEFAULT_RESTART = {"Condition": "any", "Delay": 5_000_000_000}
_FAILED = ("failed", "rejected", "orphaned")
_BACK = ("rollback_started", "rollback_completed", "rollback_paused", "paused")


@dataclass(frozen=True)
class Baseline:
    """What was there before a deploy, so that old failures are not blamed on it."""

    task_ids: frozenset[str]
    updates: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Progress:
    """A service on its way. `failure` is "" while there is hope; `culprit` the failing task."""

    service: Service
    running: int
    wanted: int
    done: bool
    doing: str
    failure: str = ""
    culprit: Task | None = None


def baseline(cluster: Cluster) -> Baseline:
    """Given the cluster before a deploy, return what a later judgement must not count."""
    return Baseline(
        frozenset(task.id for task in cluster.tasks if task.state in _FAILED),
        {service.id: service.update for service in cluster.services},
    )


def judge(cluster: Cluster, stack: str, before: Baseline) -> tuple[Progress, ...]:
    """Given what a manager reports now, return the progress of each service of a stack."""
    return tuple(_judge_service(cluster, service, before) for service in cluster.stack(stack))


def _judge_service(cluster: Cluster, service: Service, before: Baseline) -> Progress:
    tasks = cluster.tasks_of(service)
    wanted = _wanted(cluster, service)
    good = [task for task in tasks if _is_good(task, service, cluster.now)]
    failed = [task for task in tasks if task.state in _FAILED and task.id not in before.task_ids]
    update = service.update
    state = str(update.get("State", ""))
    stale = bool(update) and update == before.updates.get(service.id)
    progress = Progress(service, len(good), wanted, False, _doing(tasks, state), "", None)
    unplaced = [task for task in tasks if _is_unplaced(task, cluster.now)]
    if state in _BACK and not stale:
        return _gone_back(progress, update, state, failed, unplaced)
    if len(failed) > FAILURES_ALLOWED:
        return _with(progress, f"its task failed {len(failed)} times", failed[0])
    if unplaced:
        return _with(progress, "no suitable node for its task", unplaced[0])
    # "updating" lasts until Swarm has watched the new tasks for the monitoring time.
    settled = stale or state in ("", "completed")
    # A task too many is an old one on its way out.
    left = [t for t in tasks if t.desired == "running" and t.state not in _FAILED]
    done = settled and len(good) == wanted and len(left) == wanted
    return Progress(service, len(good), wanted, done, progress.doing)


def _gone_back(
    progress: Progress,
    update: Mapping[str, Any],
    state: str,
    failed: Sequence[Task],
    unplaced: Sequence[Task],
) -> Progress:
    said = str(update.get("Message", ""))
    culprit = failed[0] if failed else None
    if state == "rollback_started" and unplaced:
        return _with(progress, "rolling back, and no suitable node for its task", unplaced[0])
    if state == "rollback_started":
        # Swarm is still putting the old version back: report when that is over.
        return Progress(progress.service, progress.running, progress.wanted, False, "rolling back")
    if state == "rollback_completed":
        return _with(progress, f"the update was rolled back ({said})", culprit)
    return _with(progress, f"the update is stuck, {state.replace('_', ' ')} ({said})", culprit)


def _with(progress: Progress, failure: str, culprit: Task | None) -> Progress:
    return Progress(
        progress.service, progress.running, progress.wanted, False, "failed", failure, culprit
    )


def _wanted(cluster: Cluster, service: Service) -> int:
    if service.replicas is not None:
        return service.replicas
    # Of a global service: one on each node that it may run on.
    constraints = (service.template.get("Placement") or {}).get("Constraints") or ()
    return sum(
        1
        for node in cluster.nodes
        if node.state == "ready"
        and node.availability == "active"
        and all(_satisfies(node, str(one)) for one in constraints)
    )


def _satisfies(node: Node, constraint: str) -> bool:
    """Whether a node satisfies a placement constraint, such as "node.labels.role == app". What
    cannot be told here counts as satisfied.
    """
    left, unequal, right = constraint.partition("!=")
    if not unequal:
        left, _, right = constraint.partition("==")
    name, wanted = left.strip(), right.strip()
    known = {"node.id": node.id, "node.hostname": node.name}
    if name.startswith("node.labels."):
        known[name] = node.labels.get(name.removeprefix("node.labels."), "")
    return name not in known or (known[name] == wanted) is not bool(unequal)


def _is_good(task: Task, service: Service, now: str) -> bool:
    if task.state != "running" or task.desired != "running":
        return False
    if not same_specification(task, service):
        return False
    checked = service.template["ContainerSpec"].get("Healthcheck")
    return bool(checked) or age_seconds(task.since, now) >= STEADY_SECONDS


def away_seconds(before: Cluster, after: Cluster, service: Service) -> float | None:
    """For how many seconds of a change no task of a service with one replica ran: from the end of
    the old one until the new one was healthy. None where one ran all the time, or none before.
    """
    ran = {task.id for task in before.tasks_of(service) if task.state == "running"}
    tasks = after.tasks_of(service)
    ended = [task.since for task in tasks if task.id in ran and task.state != "running"]
    begun = [
        task.since
        for task in tasks
        if task.id not in ran and task.state == task.desired == "running"
    ]
    if service.replicas != 1 or not ended or not begun:
        return None
    away = seconds_between(max(ended), min(begun))
    return away if away > 0 else None


def same_specification(task: Task, service: Service) -> bool:
    """Whether a task was made from the service's present specification.

    Placement is left out: Swarm keeps a task that still fits a changed placement.
    """
    return bool(_comparable(task.spec) == _comparable(service.template))


def _comparable(template: Mapping[str, Any]) -> Any:
    """A task template without what Docker shows on services only (seen with 20.10): empty
    settings (`DNSConfig: {}`), Runtime, the default grace period of 10 s, and what is default
    in the restart policy.
    """
    container = dict(template["ContainerSpec"])
    if container.get("StopGracePeriod") == _DEFAULT_GRACE_NANOSECONDS:
        del container["StopGracePeriod"]
    restart = template.get("RestartPolicy") or {}
    given = {k: v for k, v in restart.items() if v != _DEFAULT_RESTART.get(k)}
    rest = {k: v for k, v in template.items() if k not in ("Placement", "Runtime")}
    return _without_empty({**rest, "ContainerSpec": container, "RestartPolicy": given})


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value


def _is_unplaced(task: Task, now: str) -> bool:
    return (
        task.state == "pending"
        # "ready" is one that waits for its predecessor's end, as on a node that is drained.
        and task.desired in ("running", "ready")
        and "no suitable node" in task.error
        and age_seconds(task.created, now) > UNPLACED_SECONDS
    )


def _doing(tasks: Sequence[Task], update: str) -> str:
    """One word for a progress line: what the newest task that should run is at."""
    current = next((task for task in tasks if task.desired == "running"), None)
    word = current.state if current else "waiting for a task"
    return f"{word}, {update}" if update == "updating" else word
