"""Clusters, services and tasks for tests, with the defaults of a healthy stack."""

from __future__ import annotations

from typing import Any

from fabfile.config.inventory import ROLE_LABEL
from fabfile.swarm.docker_commands import data_label
from fabfile.swarm.state import Cluster, Node, Service, Task

NOW = "2026-11-22T10:00:00Z"
EARLIER = "2026-11-22T09:00:00.123456789Z"


def node(name: str, role: str = "", data: str = "", **changes: Any) -> Node:
    labels = {ROLE_LABEL: role} if role else {}
    if data:
        labels[data_label(data)] = "true"
    fields = {"state": "ready", "availability": "active", "manager": name.startswith("m")}
    return Node(id=f"id-{name}", name=name, labels=labels, **(fields | changes))


def spec(image: str = "postgres:15", health: bool = True, secret: str = "") -> dict[str, Any]:
    container: dict[str, Any] = {"Image": image}
    if health:
        container["Healthcheck"] = {"Test": ["CMD", "true"]}
    if secret:
        container["Secrets"] = [{"SecretName": secret}]
    return {"ContainerSpec": container, "Placement": {}}


def service(
    name: str = "dbstack_root_db", replicas: int | None = 1, update: str = "", **changes: Any
) -> Service:
    template = changes.pop("template", spec())
    return Service(
        id=f"id-{name}",
        name=name,
        stack=name.partition("_")[0],
        image=template["ContainerSpec"]["Image"],
        replicas=replicas,
        spec={"Name": name, "TaskTemplate": template},
        update={"State": update, "Message": "because"} if update else {},
        updated_at=EARLIER,
    )


def task(of: Service, state: str = "running", **changes: Any) -> Task:
    fields: dict[str, Any] = {
        "id": f"task-{of.name}-{state}-{changes.get('slot', 1)}",
        "service_id": of.id,
        "node_id": "id-db1",
        "slot": 1,
        "desired": "running" if state not in ("failed", "rejected", "shutdown") else "shutdown",
        "state": state,
        "since": EARLIER,
        "created": EARLIER,
        "error": "",
        "message": "started",
        "container_id": "c1",
        "exit_code": 0,
        "spec": of.template,
    }
    return Task(**(fields | changes))


def cluster(
    services: tuple[Service, ...] = (), tasks: tuple[Task, ...] = (), **changes: Any
) -> Cluster:
    fields: dict[str, Any] = {
        "cli_major": 20,
        "now": NOW,
        "nodes": (node("manager1"), node("db1", "db", "dbstack"), node("app1", "app")),
        "network": {"Driver": "overlay", "Scope": "swarm", "Attachable": True},
        "secrets": (),
    }
    return Cluster(services=services, tasks=tasks, **(fields | changes))
