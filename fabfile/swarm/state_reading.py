"""Asking a manager for the Swarm's state: the commands, and their answers as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fabfile.base import json_text
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import Command, Result
from fabfile.swarm import engine_api, state_questions
from fabfile.swarm.docker_commands import (
    CONFIG_LABEL,
    FILE_LABEL,
    RECORD_LABEL,
    SECRET_LABEL,
    STACK_LABEL,
    SecretVersion,
)
from fabfile.swarm.state import Cluster, Node, Record, Service, Task, _living
from fabfile.swarm.state_questions import REFUSED, answered, json_list

_SECTION = re.compile(r"^--swarmkeep (\w+)--\n", re.MULTILINE)


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

    Each `docker` call takes 20 ms of work and more: so one asks nearly everything (engine_api).
    A section whose list could not be had is left out, so that no failure looks like "nothing
    there". On a machine that is no manager only `info` has something to tell.
    """
    scripts = [
        _section("api", engine_api.ask_script(state_questions.everything(network, stacks))),
        _section("cli", "docker --version") + _now(),
        # The engine's own list holds what is in each record, too.
        _list(
            "records",
            f"docker config ls --filter label={RECORD_LABEL} "
            "--format '{{.ID}} {{.Name}} {{.Labels}}'",
        ),
    ]
    return Command(side_by_side(scripts), changes=False)


def watch_command(stacks: Sequence[str]) -> Command:
    """The command that reads only what moves while Swarm works: services and their tasks.

    It costs the manager a third of `look_command`: it is run twice a second while we wait.
    """
    asked = _section("api", engine_api.ask_script(state_questions.services(stacks)))
    return Command(_now() + asked, changes=False)


def _now() -> str:
    return _section("now", "date -u +%Y-%m-%dT%H:%M:%SZ")


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
    sections = answered(sections)
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
            f"{host}: the Swarm does not answer: {sections.get(REFUSED) or stderr.strip()}",
            hint="has it lost its quorum of managers? see docker node ls",
        )
    networks = json_list(sections["network"])
    nodes, former = _living([_node(item) for item in json_list(sections["nodes"])])
    records = tuple(_record(line) for line in _lines(sections.get("records", "")))
    secrets = [_secret(item) for item in json_list(sections["secrets"])]
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
    sections = answered(split_sections(result.stdout))
    if not sections.keys() >= {"services", "tasks"}:
        return None
    return replace(seen, **_moving(sections))


def _moving(sections: Mapping[str, str]) -> dict[str, Any]:
    services = sorted(map(_service, json_list(sections["services"])), key=lambda one: one.name)
    ids = {service.id for service in services}
    tasks = (_task(item) for item in json_list(sections["tasks"]))
    return {
        "now": sections["now"].strip(),
        "services": tuple(services),
        # The engine has tasks of services that are gone, too.
        "tasks": tuple(task for task in tasks if task.service_id in ids),
    }


def split_sections(text: str) -> dict[str, str]:
    """Given output with section headers, return the text of each section."""
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


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
    match = re.match(r"\s*(?:Docker version )?(\d+)", version)
    return int(match[1]) if match else 0
