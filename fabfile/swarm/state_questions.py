"""What an engine is asked about a Swarm, and its answers put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fabfile.base import json_text
from fabfile.base.errors import SwarmkeepError
from fabfile.swarm import engine_api
from fabfile.swarm.docker_commands import PROJECT_LABEL, SECRET_LABEL

REFUSED = "refused"
"""The section with what the engine said where it could not answer."""
_LISTS = ("services", "tasks")
_OF_PROJECTS = "_of_projects"


def everything(network: str, stacks: Sequence[str]) -> dict[str, str]:
    """The questions, by section, about a whole Swarm: paths of the engine's API.

    Services, and their tasks, are those of our stacks and of all projects.
    """
    return {
        "info": "/info",
        "nodes": "/nodes",
        "network": f"/networks/{quote(network)}",
        "networks": engine_api.path("networks", scope=["swarm"]),
        "secrets": engine_api.path("secrets", label=[SECRET_LABEL]),
        **services(stacks),
        **{name + _OF_PROJECTS: engine_api.path(name, label=[PROJECT_LABEL]) for name in _LISTS},
    }


def services(stacks: Sequence[str]) -> dict[str, str]:
    """The questions about what moves while Swarm works: the services of our stacks, their tasks."""
    # By their names: this filter is a prefix, for tasks, too.
    return {name: engine_api.path(name, name=[f"{stack}_" for stack in stacks]) for name in _LISTS}


def answered(sections: Mapping[str, str]) -> dict[str, str]:
    """Given sections, return them with each answer of the section "api" in one of its own.

    A list that could not be had is left out. Raises SwarmkeepError as `json_list`.
    """
    if "api" not in sections:
        return dict(sections)
    answers, said = engine_api.parse(sections["api"])
    found = {name: answer.body for name, answer in answers.items() if answer.status == 200}
    refused = next((one.error for one in answers.values() if one.status not in (200, 404)), "")
    if "network" in answers and answers["network"].status in (200, 404):
        found["network"] = f"[{found.get('network', '')}]"
    if "networks" in found:
        networks = json_list(found["networks"])
        found["networks"] = "\n".join(f"{one['Id']} {one['Name']}" for one in networks)
    for name in _LISTS:
        if name + _OF_PROJECTS in answers:
            _merge(found, name, name + _OF_PROJECTS)
    return {"info": said, REFUSED: refused, **sections, **found}


def _merge(found: dict[str, str], name: str, more: str) -> None:
    """Make one list of two; where either could not be had, there is none."""
    if found.keys() >= {name, more}:
        both = {one["ID"]: one for key in (name, more) for one in json_list(found[key])}
        found[name] = json.dumps(list(both.values()))
    else:
        found.pop(name, None)


def json_list(text: str) -> list[dict[str, Any]]:
    """Given a list as JSON, or nothing, return it. Raises SwarmkeepError if it cannot be read."""
    text = text.strip()
    try:
        items: list[dict[str, Any]] = json_text.parse(text) if text else []
    except ValueError as error:
        raise SwarmkeepError(
            f"Docker's answer cannot be read: {error}",
            hint="run again; if it stays so: docker node ls, docker service ls on a manager",
        ) from None
    return items
