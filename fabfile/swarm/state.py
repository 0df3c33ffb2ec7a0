"""What one manager knows: the command that reads it, and its answer as data.

Field names are those of the Docker Engine API, v1.41 (Docker 20.10) and later:
https://docs.docker.com/reference/api/engine/version/v1.41/
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fabfile.base import json_text
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Command, Result
from fabfile.swarm.docker_commands import (
    CONFIG_LABEL,
    FILE_LABEL,
    PROJECT_LABEL,
    RECORD_LABEL,
    SECRET_LABEL,
    STACK_LABEL,
    SecretVersion,
)

_SECTION = re.compile(r"^--swarmkeep (\w+)--\n", re.MULTILINE)


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


def _section(name: str, command: str) -> str:
    return f"echo; echo '--swarmkeep {name}--'; {command}\n"


def side_by_side(scripts: Sequence[str]) -> str:
    """Given shell scripts, return one that runs them all at once and prints what they print in
    their order. Without temporary files: each one's output waits in a pipe for the next one's end.
    """
    first, *rest = scripts
    if not rest:
        return first
    return (
        f"{{\n{first}}} | {{\nothers=$({{\n{side_by_side(rest)}}} </dev/null)\n"
        'cat; printf "\\n%s\\n" "$others"; }\n'
    )


def look_command(network: str, stacks: Sequence[str]) -> Command:
    """The one command that reads all a deploy or a status needs to know from a manager.

    Each `docker` call takes 30 ms and more, most of it waiting: so they run side by side. A
    section whose list could not be had is left out, so that no failure looks like "nothing
    there". On a machine that is no manager only `info` has something to tell.
    """
    scripts = [
        _section("info", "docker info --format '{{json .}}' 2>&1"),
        _section("cli", "docker version --format '{{.Client.Version}}' 2>&1") + _now(),
        "if n=$(docker node ls -q); then\n" + _section("nodes", "docker node inspect $n") + "fi\n",
        _section("network", f"docker network inspect {shlex.quote(network)} 2>/dev/null || :")
        + _list(
            "networks",
            "docker network ls --no-trunc --filter scope=swarm --format '{{.ID}} {{.Name}}'",
        ),
        _list(
            "records",
            f"docker config ls --filter label={RECORD_LABEL} "
            "--format '{{.ID}} {{.Name}} {{.Labels}}'",
        ),
        f"if s=$(docker secret ls -q --filter label={SECRET_LABEL} 2>/dev/null); then\n"
        + _section("secrets", '[ -z "$s" ] || docker secret inspect $s')
        + "fi\n",
        _services(stacks, everybodys=True),
    ]
    return Command(side_by_side(scripts), changes=False)


def watch_command(stacks: Sequence[str]) -> Command:
    """The command that reads only what moves while Swarm works: services and their tasks.

    It costs the manager a third of `look_command`: it is run twice a second while we wait.
    """
    return Command(_now() + _services(stacks), changes=False)


def _now() -> str:
    return _section("now", "date -u +%Y-%m-%dT%H:%M:%SZ")


def _services(stacks: Sequence[str], *, everybodys: bool = False) -> str:
    """Services of our stacks, and with `everybodys` those of all projects on the Swarm."""
    # Names of services: a filter is a prefix, and the same filter given twice means either.
    filters = " ".join(f"--filter name={shlex.quote(stack)}_" for stack in stacks)
    ask = f"docker service ls -q {filters} 2>/dev/null"
    if everybodys:
        ask += f" && docker service ls -q --filter label={PROJECT_LABEL} 2>/dev/null"
    return (
        f"if s=$({ask}); then\n"
        + 's=$(printf "%s\n" "$s" | sort -u)\n'
        + _section("services", '[ -z "$s" ] || docker service inspect $s')
        + '[ -z "$s" ] || t=$(docker service ps -q --no-trunc $s 2>/dev/null | sort -u)\n'
        # A task may be pruned between the two calls: what is left is still printed.
        + _section("tasks", '[ -z "${t:-}" ] || docker inspect --type task $t 2>/dev/null || :')
        + "fi\n"
    )


def _list(name: str, command: str) -> str:
    return f"if l=$({command} 2>/dev/null); then\n" + _section(name, 'printf "%s\\n" "$l"') + "fi\n"


_WANTED_SECTIONS = {"nodes", "network", "networks", "records", "secrets", "services", "tasks"}


def parse_cluster(result: Result) -> Cluster:
    """Given the result of `look_command`, return the Cluster. Raises SwarmkeepError as below."""
    return parse_sections(result.host, split_sections(result.stdout), result.stderr)


def parse_sections(host: str, sections: Mapping[str, str], stderr: str = "") -> Cluster:
    """Given the sections of what `look_command` printed on a host, return the Cluster.

    Raises SwarmkeepError if Docker does not answer there or it is not a manager.
    """
    info = _first_json(sections.get("info", ""))
    if not isinstance(info, dict) or info.get("ServerErrors"):
        said = (sections.get("info", "") or stderr).strip().splitlines()
        raise SwarmkeepError(
            f"{host}: Docker does not answer: {said[-1] if said else 'no output'}",
            hint="is Docker installed and running there? try: systemctl status docker",
        )
    swarm = info.get("Swarm") or {}
    if not swarm.get("ControlAvailable"):
        state = swarm.get("LocalNodeState", "inactive")
        raise SwarmkeepError(
            f"{host}: is not a Swarm manager (Swarm is {state} there)",
            hint="check 'swarm: manager' in hosts.yaml, or make it one: inv swarm.init",
        )
    if not sections.keys() >= _WANTED_SECTIONS:
        raise SwarmkeepError(
            f"{host}: the Swarm does not answer: {stderr.strip()}",
            hint="has it lost its quorum of managers? see docker node ls",
        )
    networks = _json_list(sections["network"])
    nodes, former = _living([_node(item) for item in _json_list(sections["nodes"])])
    records = tuple(_record(line) for line in _lines(sections.get("records", "")))
    secrets = [_secret(item) for item in _json_list(sections["secrets"])]
    return Cluster(
        cli_major=_major(sections.get("cli", "")),
        nodes=nodes,
        former=former,
        network=networks[0] if networks else None,
        secrets=(*secrets, *(_config(r) for r in records if CONFIG_LABEL in r.labels)),
        **_moving(sections),
        networks=dict(line.split(" ", 1) for line in _lines(sections.get("networks", ""))),
        records=records,
    )


def refreshed(seen: Cluster, result: Result) -> Cluster | None:
    """Given the result of `watch_command`, return `seen` with services and tasks as they are now.

    None if the manager could not tell.
    """
    sections = split_sections(result.stdout)
    if not sections.keys() >= {"services", "tasks"}:
        return None
    return replace(seen, **_moving(sections))


def _moving(sections: Mapping[str, str]) -> dict[str, Any]:
    services = map(_service, _json_list(sections["services"]))
    return {
        "now": sections["now"].strip(),
        "services": tuple(sorted(services, key=lambda service: service.name)),
        "tasks": tuple(_task(item) for item in _json_list(sections["tasks"])),
    }


def age_seconds(since: str, now: str) -> float:
    """Given two of Docker's times (RFC 3339 in UTC), return the whole seconds between them."""
    return (_time(now) - _time(since)).total_seconds()


def _time(text: str) -> datetime:
    # Docker gives nanoseconds, which datetime cannot hold; whole seconds do here.
    return datetime.fromisoformat(text[:19] + "+00:00")


def split_sections(text: str) -> dict[str, str]:
    """Given output with section headers, return the text of each section."""
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def images_of(cluster: Cluster, stacks: Sequence[str]) -> dict[str, str]:
    """What the services of stacks run, with the digest where Swarm knows it, by full name."""
    return {s.name: s.image for s in cluster.services if s.stack in stacks}


def _node(item: dict[str, Any]) -> Node:
    return Node(
        id=item["ID"],
        name=item["Description"]["Hostname"],
        state=item["Status"]["State"],
        availability=item["Spec"]["Availability"],
        manager=item["Spec"]["Role"] == "manager",
        labels=item["Spec"].get("Labels") or {},
        created=item.get("CreatedAt", ""),
    )


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


def _secret(item: dict[str, Any]) -> SecretVersion:
    labels = item["Spec"]["Labels"]
    stack = labels.get(FILE_LABEL, "")
    return SecretVersion(item["Spec"]["Name"], labels[SECRET_LABEL], "secret", stack)


def _config(record: Record) -> SecretVersion:
    labels = record.labels
    return SecretVersion(record.name, labels[CONFIG_LABEL], "config", labels.get(FILE_LABEL, ""))


def _service(item: dict[str, Any]) -> Service:
    spec = item["Spec"]
    return Service(
        id=item["ID"],
        name=spec["Name"],
        stack=(spec.get("Labels") or {}).get(STACK_LABEL, ""),
        image=spec["TaskTemplate"]["ContainerSpec"]["Image"],
        replicas=(spec["Mode"].get("Replicated") or {}).get("Replicas"),
        spec=spec,
        update=item.get("UpdateStatus") or {},
        updated_at=item.get("UpdatedAt", ""),
    )


def _task(item: dict[str, Any]) -> Task:
    status = item["Status"]
    container = status.get("ContainerStatus") or {}
    return Task(
        id=item["ID"],
        service_id=item["ServiceID"],
        node_id=item.get("NodeID", ""),
        slot=item.get("Slot", 0),
        desired=item["DesiredState"],
        state=status["State"],
        since=status["Timestamp"],
        created=item["CreatedAt"],
        error=status.get("Err", ""),
        message=status.get("Message", ""),
        container_id=container.get("ContainerID", ""),
        exit_code=container.get("ExitCode", 0),
        spec=item["Spec"],
    )


def _record(line: str) -> Record:
    id_, name, labels = _words(line, 3)
    # Our labels hold neither commas nor equals signs: see releases.py, deploy_lock.py.
    pairs = (pair.partition("=") for pair in labels.split(","))
    return Record(id_, name, {key: value for key, _, value in pairs if key})


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _words(line: str, count: int) -> tuple[str, ...]:
    words = line.split(" ", count - 1)
    return tuple(words + [""] * (count - len(words)))


def _json_list(text: str) -> list[dict[str, Any]]:
    text = text.strip()
    try:
        items: list[dict[str, Any]] = json_text.parse(text) if text else []
    except ValueError as error:
        raise SwarmkeepError(
            f"Docker's answer cannot be read: {error}",
            hint="run again; if it stays so: docker node ls, docker service ls on a manager",
        ) from None
    return items


def _first_json(text: str) -> Any:
    """The JSON line of `docker info`, which may be followed by warnings."""
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                return json_text.parse(line)
            except ValueError:
                return None
    return None


def _major(version: str) -> int:
    match = re.match(r"\s*(\d+)", version)
    return int(match[1]) if match else 0
