"""What runs where: a cluster as rows for people and as plain data for programs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fabfile.base.units import format_duration
from fabfile.config.inventory import Inventory
from fabfile.swarm.convergence import Baseline, judge
from fabfile.swarm.docker_commands import holds_data
from fabfile.swarm.state import Cluster, Service, Task


def summarise(inventory: Inventory, cluster: Cluster) -> dict[str, Any]:
    """Given a cluster, return {"ok", "nodes": [...], "services": [...]} of plain values.

    Times are RFC 3339 in UTC. `ok` is whether the stacks that should run are there and
    converged.
    """
    stacks = inventory.running_stacks
    services = [_service(cluster, s) for stack in stacks for s in cluster.stack(stack)]
    for one in services:
        if one["name"].startswith(f"{inventory.proxy.stack}_"):
            # Swarm wants none on a node that is down or drained: clients do.
            one["wanted"] = max(one["wanted"], len(inventory.proxy.hosts))
            one["converged"] = one["running"] == one["wanted"]
    missing = [stack for stack in stacks if not cluster.stack(stack)]
    return {
        "ok": not missing and all(s["converged"] for s in services),
        "nodes": [_node(inventory, cluster, name) for name in _node_names(inventory, cluster)],
        "services": services,
        "missing_stacks": missing,
        "network": {"name": inventory.network, "exists": cluster.network is not None},
    }


def age(since: str, now: str) -> str:
    """Given two RFC 3339 times, return how long that is: "3h 12m"."""
    start, end = (datetime.fromisoformat(text[:19] + "+00:00") for text in (since, now))
    return format_duration(max(0.0, (end - start).total_seconds()))


def _node_names(inventory: Inventory, cluster: Cluster) -> list[str]:
    ours = [host.node for host in inventory.hosts]
    return ours + sorted(node.name for node in cluster.nodes if node.name not in ours)


def _node(inventory: Inventory, cluster: Cluster, name: str) -> dict[str, Any]:
    host, node = inventory.host_of_node(name), cluster.node(name)
    return {
        "name": name,
        "host": host.name if host else None,
        "role_wanted": host.role if host else "",
        "role": node.labels.get(inventory.role_label, "") if node else "",
        "holds_data": holds_data(node.labels, inventory.postgres.stack) if node else False,
        "manager": node.manager if node else False,
        "state": node.state if node else "not in the Swarm",
        "availability": node.availability if node else "",
    }


def _service(cluster: Cluster, service: Service) -> dict[str, Any]:
    progress = judge(_only(cluster, service), service.stack, Baseline(frozenset(), {}))[0]
    tasks = cluster.tasks_of(service)
    running = [task for task in tasks if task.state == "running"]
    names = {node.id: node.name for node in cluster.nodes}
    failure = next((task for task in tasks if task.error), None)
    return {
        "name": service.name,
        "image": service.image.partition("@")[0],
        "running": progress.running,
        "wanted": progress.wanted,
        # Old failures do not matter once the wanted tasks run.
        "converged": progress.running == progress.wanted,
        "doing": progress.doing,
        "update": str(service.update.get("State", "")),
        "nodes": sorted({names.get(task.node_id, "?") for task in running}),
        "since": min((task.since for task in running), default=""),
        "last_error": _error(failure, names),
        "last_error_at": failure.since if failure else "",
    }


def _error(task: Task | None, names: dict[str, str]) -> str:
    if task is None:
        return ""
    node = names.get(task.node_id, "")
    return f"{task.error} on {node}" if node else task.error


def _only(cluster: Cluster, service: Service) -> Cluster:
    from dataclasses import replace

    return replace(cluster, services=(service,))
