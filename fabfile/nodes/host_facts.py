"""What a machine tells about itself before it is a Swarm node: system, engine, Swarm, addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fabfile.base import json_text
from fabfile.ssh.remote_command import Command, Result
from fabfile.swarm.state_reading import split_sections

PENDING_SECONDS = 10
"""How long an engine that was just started may take to read its Swarm from disk. (One without a
node id is in none: its join hangs, and waiting does not help.)"""

# sshd gives a command a short PATH; dockerd and friends are in the sbin folders.
PATH = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n"

_GATHER = f"""{PATH}
section() {{ echo; echo "--swarmkeep $1--"; }}
section os
( . /etc/os-release; printf '%s\\n' "${{ID:-}}" "${{ID_LIKE:-}}" "${{PRETTY_NAME:-}}" ) 2>/dev/null
section tools
for t in apt-get dockerd docker perl curl service; do command -v $t >/dev/null && echo $t; done
[ ! -d /run/systemd/system ] || echo systemd
section hostname
uname -n
section addresses
hostname -I 2>/dev/null
section bridges
for n in $(docker network ls -q --filter driver=bridge 2>/dev/null); do
  docker network inspect --format '{{{{range .IPAM.Config}}}}{{{{.Gateway}}}} {{{{end}}}}' "$n"
done
section info
i=0
while
  said=$(docker info --format '{{{{json .}}}}' 2>&1)
  case $said in
    *'"NodeID":""'*) false ;;
    *'"LocalNodeState":"pending"'*) [ $i -lt {PENDING_SECONDS} ] ;;
    *) false ;;
  esac
do sleep 1; i=$((i + 1)); done
printf '%s\\n' "$said"
section nodes
n=$(docker node ls -q 2>/dev/null) && docker node inspect $n
exit 0
"""


@dataclass(frozen=True)
class Member:
    """A node as a manager lists it. `state` is ready, down, ...; `address` its IP."""

    id: str
    name: str
    manager: bool
    state: str
    address: str


@dataclass(frozen=True)
class HostFacts:
    """One machine. Without an answering engine everything about the Swarm is empty."""

    system: str
    """Its distribution, for people."""
    debian_like: bool
    tools: frozenset[str]
    """Of apt-get, dockerd, docker, perl, curl, service, systemd: what is there."""
    hostname: str
    addresses: tuple[str, ...]
    """Its own, without those of Docker's bridges."""
    engine: str = ""
    """The engine's version; "" where none answers."""
    state: str = "inactive"
    """Docker's LocalNodeState: inactive, pending, active, error, locked."""
    error: str = ""
    node_id: str = ""
    node_address: str = ""
    control: bool = False
    """Whether it is a manager."""
    swarm_id: str = ""
    """The Swarm's id; only managers know it."""
    managers: Mapping[str, str] = field(default_factory=dict)
    """The Swarm's managers as it knows them: address with port -> node id ("" if unknown)."""
    members: tuple[Member, ...] = ()
    """All nodes, on a manager of a Swarm that has its quorum."""


def gather() -> Command:
    """The one command that reads all this from a machine that may have nothing but sshd."""
    return Command(_GATHER, changes=False)


def parse(result: Result) -> HostFacts:
    """Given the output of `gather`, return the facts."""
    sections = split_sections(result.stdout)
    system = [*sections.get("os", "").splitlines(), "", "", ""]
    family = {system[0], *system[1].split()}
    bridges = set(sections.get("bridges", "").split())
    info = engine_info(sections.get("info", ""))
    swarm = info.get("Swarm") or {}
    return HostFacts(
        system=system[2] or system[0] or "an unknown system",
        debian_like=bool(family & {"debian", "ubuntu"}),
        tools=frozenset(sections.get("tools", "").split()),
        hostname=str(info.get("Name") or sections.get("hostname", "").strip()),
        addresses=tuple(
            a for a in sections.get("addresses", "").split() if a not in bridges | {"172.17.0.1"}
        ),
        engine=str(info.get("ServerVersion") or ""),
        state=swarm.get("LocalNodeState") or "inactive",
        error=swarm.get("Error") or "",
        node_id=swarm.get("NodeID") or "",
        node_address=swarm.get("NodeAddr") or "",
        control=bool(swarm.get("ControlAvailable")),
        swarm_id=(swarm.get("Cluster") or {}).get("ID") or "",
        managers={m["Addr"]: m["NodeID"] for m in swarm.get("RemoteManagers") or ()},
        members=tuple(map(_member, json_list(sections.get("nodes", "")))),
    )


def engine_info(text: str) -> dict[str, Any]:
    """Given what `docker info --format '{{json .}}'` said, return it; {} if no engine answered."""
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found: dict[str, Any] = json_text.parse(line)
            except ValueError:
                return {}
            return {} if found.get("ServerErrors") else found
    return {}


def json_list(text: str) -> list[dict[str, Any]]:
    """Given JSON of a list, or nothing, return the list."""
    text = text.strip()
    items: list[dict[str, Any]] = json_text.parse(text) if text else []
    return items


def version_of(engine: str) -> tuple[int, int]:
    """Given "20.10.24+dfsg1", return (20, 10); (0, 0) for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", engine)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _member(item: dict[str, Any]) -> Member:
    return Member(
        id=item["ID"],
        name=item["Description"]["Hostname"],
        manager=item["Spec"]["Role"] == "manager",
        state=item["Status"]["State"],
        address=item["Status"].get("Addr", ""),
    )
