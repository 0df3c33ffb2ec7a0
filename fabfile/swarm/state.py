"""What one manager knows: the command that reads it, and its answer as data.

Field names are those of the Docker Engine API, v1.41 (Docker 20.10) and later:
https://docs.docker.com/reference/api/engine/version/v1.41/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fabfile.swarm.docker_commands import (
    SecretVersion,
)


@dataclass(frozen=True)
class Node:
    """A node of the Swarm."""

    id: str
    name: str
    state: str
    availability: str
    manager: bool
    labels: Mapping[str, str]
    created: str = ""
    """When it joined (RFC 3339)."""


@dataclass(frozen=True)
class Task:
    """One task of a service, running or gone. Times are as Docker gives them (RFC 3339)."""

    id: str
    service_id: str
    node_id: str
    slot: int
    desired: str
    state: str
    since: str
    created: str
    error: str
    message: str
    container_id: str
    exit_code: int
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Service:
    """A service. `replicas` is the wanted number of tasks (None for a global service)."""

    id: str
    name: str
    stack: str
    image: str
    replicas: int | None
    spec: Mapping[str, Any]
    update: Mapping[str, Any]
    updated_at: str

    @property
    def template(self) -> Mapping[str, Any]:
        """The specification its tasks are made from."""
        template: Mapping[str, Any] = self.spec["TaskTemplate"]
        return template


@dataclass(frozen=True)
class Record:
    """A Docker config in which we keep something for ourselves; its content is not read here."""

    id: str
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """What one manager knows, from one command."""

    cli_major: int
    now: str
    nodes: tuple[Node, ...]
    network: Mapping[str, Any] | None
    secrets: tuple[SecretVersion, ...]
    """Those of configs, too, which the records are read from."""
    services: tuple[Service, ...]
    tasks: tuple[Task, ...]
    networks: Mapping[str, str] = field(default_factory=dict)
    """Names of the Swarm's networks by id."""
    records: tuple[Record, ...] = ()
    former: tuple[Node, ...] = ()
    """What is left of nodes that left, or were reinstalled, and joined again under their name:
    `nodes` has the living one only.
    """

    def node(self, name: str) -> Node | None:
        """The node of this name."""
        return next((node for node in self.nodes if node.name == name), None)

    def namesakes(self) -> tuple[tuple[Node, ...], ...]:
        """Living nodes of one name, where there are several."""
        names = dict.fromkeys(node.name for node in self.nodes)
        alike = (tuple(n for n in self.nodes if n.name == name) for name in names)
        return tuple(nodes for nodes in alike if len(nodes) > 1)

    def identified(self, own: Mapping[str, str]) -> Cluster:
        """The same cluster, with what hosts say of themselves: node name -> id of that machine.

        For some seconds after a node has joined again, Swarm calls both entries ready.
        """
        former = [
            node
            for nodes in self.namesakes()
            if own.get(nodes[0].name) in [node.id for node in nodes]
            for node in nodes
            if node.id != own[node.name]
        ]
        living = tuple(node for node in self.nodes if node not in former)
        return replace(self, nodes=living, former=(*self.former, *former))

    def stack(self, stack: str) -> tuple[Service, ...]:
        """The services of a stack, by name."""
        return tuple(service for service in self.services if service.stack == stack)

    def service(self, name: str) -> Service | None:
        """The service of this full name."""
        return next((service for service in self.services if service.name == name), None)

    def tasks_of(self, service: Service) -> tuple[Task, ...]:
        """A service's tasks, the newest first."""
        mine = [task for task in self.tasks if task.service_id == service.id]
        return tuple(sorted(mine, key=lambda task: task.created, reverse=True))


def age_seconds(since: str, now: str) -> float:
    """Given two of Docker's times (RFC 3339 in UTC), return the whole seconds between them."""
    return (_time(now) - _time(since)).total_seconds()


def seconds_between(first: str, second: str) -> float:
    """The same with fractions of a second."""
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def _time(text: str) -> datetime:
    # Docker gives nanoseconds, which datetime cannot hold; whole seconds do here.
    return datetime.fromisoformat(text[:19] + "+00:00")


def images_of(cluster: Cluster, stacks: Sequence[str]) -> dict[str, str]:
    """What the services of stacks run, with the digest where Swarm knows it, by full name."""
    return {s.name: s.image for s in cluster.services if s.stack in stacks}


def _living(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Given the Swarm's entries, return the living nodes, and the former selves of some of them.

    A node that left and joined again stands there twice, under one name and two ids.
    """
    living: list[Node] = []
    for name in dict.fromkeys(node.name for node in nodes):
        alike = [node for node in nodes if node.name == name]
        ready = [node for node in alike if node.state == "ready"]
        living += ready or [max(alike, key=lambda node: node.created)]
    return tuple(living), tuple(node for node in nodes if node not in living)
