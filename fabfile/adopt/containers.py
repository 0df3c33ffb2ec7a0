"""The containers on a host, as `docker inspect` has them: what a move must know of each.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerInspect
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fabfile.config.inventory import HostEntry
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command
from fabfile.swarm.docker_commands import STACK_LABEL

_SERVICE = "com.docker.swarm.service.name"
_COMPOSE_SERVICE = "com.docker.compose.service"
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
DATA = "/usr/app/data"
"""Where NocoDB's image has attachments, and a SQLite database where it has no other."""


@dataclass(frozen=True)
class Container:
    """A container of the source, on one of its hosts."""

    host: HostEntry
    name: str
    """Or a part of its id."""
    service: str
    """The Swarm service that it is a task of, "" for none."""
    image: str
    image_id: str
    """The beginning of its image's digest."""
    environment: Mapping[str, str] = field(repr=False)
    mounts: Mapping[str, str]
    """Host's path by path in the container."""
    names: frozenset[str]
    """What others may call it on their networks."""
    ports: tuple[int, ...]
    restart: str
    running: bool
    lost: frozenset[str] = frozenset()
    """Paths in it whose volumes have no name: Docker may remove them with the container."""
    auto_remove: bool = False

    @property
    def data(self) -> str:
        """NocoDB's folder, as it is called in the container."""
        return self.environment.get("NC_TOOL_DIR", "").rstrip("/") or DATA

    @property
    def what(self) -> str:
        """What a person calls it."""
        return self.service or self.name


def containers_of(host: Host) -> list[tuple[Container, Mapping[str, str]]]:
    """Every container on a host, running or not, with its labels. Raises SwarmkeepError."""
    command = Command("docker ps -aq --no-trunc | xargs -r docker inspect", changes=False)
    said = host.check(command, "asking Docker").stdout.strip()
    return [_container(host.entry, one) for one in json.loads(said or "[]")]


def _container(entry: HostEntry, data: Mapping[str, Any]) -> tuple[Container, Mapping[str, str]]:
    config, labels = data["Config"], data["Config"].get("Labels") or {}
    networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
    bindings = (data.get("NetworkSettings") or {}).get("Ports") or {}
    name = str(data["Name"]).lstrip("/")
    service = str(labels.get(_SERVICE, ""))
    names = {name, service, str(labels.get(_COMPOSE_SERVICE, ""))}
    stack = str(labels.get(STACK_LABEL, ""))
    names.add(service.removeprefix(f"{stack}_"))
    for network in networks.values():
        names |= {*(network.get("Aliases") or ()), network.get("IPAddress") or ""}
    policy = (data["HostConfig"].get("RestartPolicy") or {}) if data.get("HostConfig") else {}
    retries = policy.get("MaximumRetryCount") or 0
    container = Container(
        host=entry,
        name=str(data["Id"])[:12] if service else name,
        service=service,
        image=str(config["Image"]).partition("@")[0],
        image_id=str(data["Image"])[:19],
        environment=dict(item.partition("=")[::2] for item in config.get("Env") or ()),
        mounts={str(m["Destination"]): str(m.get("Source", "")) for m in data.get("Mounts") or ()},
        names=frozenset(names - {""}),
        ports=tuple(
            sorted({int(one["HostPort"]) for found in bindings.values() for one in found or ()})
        ),
        restart=f"{policy.get('Name') or 'no'}{f':{retries}' if retries else ''}",
        running=bool((data.get("State") or {}).get("Running")),
        lost=frozenset(
            str(m["Destination"])
            for m in data.get("Mounts") or ()
            if m.get("Type") == "volume" and _ANONYMOUS.fullmatch(str(m.get("Name", "")))
        ),
        auto_remove=bool((data.get("HostConfig") or {}).get("AutoRemove")),
    )
    return container, labels
