"""Which steps lead from these machines to the Swarm of hosts.yaml. Pure: decides, does nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.nodes.host_facts import HostFacts, version_of

OLDEST_ENGINE = (20, 10)
"""Before Docker 20.10 (API 1.41) the outputs we read look different."""


@dataclass(frozen=True)
class Join:
    """A host that joins, under this address.

    `seen` is what it is in now, as "<LocalNodeState>:<NodeID>": nothing, a join that hangs, or a
    Swarm that has removed it. It leaves that first.
    """

    entry: HostEntry
    address: str
    seen: str = "inactive:"


@dataclass
class Plan:
    """What is to be done, in this order."""

    install: list[HostEntry] = field(default_factory=list)
    start: list[HostEntry] = field(default_factory=list)
    init: Join | None = None
    """The first manager, where there is no Swarm yet."""
    manager: HostEntry | None = None
    """A manager of the Swarm that is there."""
    joins: list[Join] = field(default_factory=list)
    promote: list[HostEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    """Node name -> id of the hosts that are in the Swarm already."""
    doubles: bool = False
    """Whether the Swarm still lists a former node under the name of one of these."""


class _Refusals:
    """Collects what stands in the way, so that a person sees all of it at once."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, message: str, hint: str) -> None:
        self.found.append((message, hint))

    def raise_any(self) -> None:
        if not self.found:
            return
        message, hint = self.found[0]
        if len(self.found) == 1:
            raise SwarmkeepError(message, hint=hint)
        raise SwarmkeepError(
            f"{len(self.found)} things stand in the way of a Swarm; nothing was changed",
            hint=hint,
            details=tuple(f"{m} (next: {h})" for m, h in self.found),
        )


def plan(inventory: Inventory, facts: Mapping[str, HostFacts]) -> Plan:
    """Given the facts of every host by name, return what is to be done.

    Raises SwarmkeepError naming everything that cannot work, above all hosts that are in
    another Swarm.
    """
    refusals = _Refusals()
    result = Plan()
    for entry in inventory.hosts:
        _engine(entry, facts[entry.name], result, refusals)
    ours = _our_swarm(inventory, facts, result, refusals)
    for entry in inventory.hosts:
        _membership(entry, facts, ours, result, refusals)
    if not result.manager and not refusals.found:
        first = inventory.managers()[0]
        result.init = next(join for join in result.joins if join.entry == first)
        result.joins.remove(result.init)
    refusals.raise_any()
    listed = facts[result.manager.name].members if result.manager else ()
    result.doubles = any(result.members.get(m.name, m.id) != m.id for m in listed)
    return result


def _engine(entry: HostEntry, facts: HostFacts, result: Plan, refusals: _Refusals) -> None:
    if facts.hostname != entry.node:
        refusals.add(
            f"{entry.name}: the machine's name is {facts.hostname!r}, and so will its node's be, "
            f"but hosts.yaml expects {entry.node!r}",
            f"set hosts.{entry.name}.node: {facts.hostname}, or rename the machine (hostnamectl)",
        )
    if facts.engine:
        if version_of(facts.engine) < OLDEST_ENGINE:
            refusals.add(
                f"{entry.name}: its Docker engine is {facts.engine}, want 20.10 or newer",
                "upgrade it: docs.docker.com/engine/install",
            )
    elif "dockerd" in facts.tools:
        _can_start(entry, facts, refusals)
        result.start.append(entry)
    elif facts.debian_like and "apt-get" in facts.tools:
        _can_start(entry, facts, refusals)
        result.install.append(entry)
    else:
        refusals.add(
            f"{entry.name}: has no Docker engine, and Swarmkeep installs one on Debian and Ubuntu "
            f"only, not on {facts.system}",
            f"install Docker Engine on {entry.name} (docs.docker.com/engine/install), run again",
        )
    if not facts.tools & {"perl", "curl"}:
        refusals.add(
            f"{entry.name}: has neither perl nor curl, which hand the join token to Docker unseen",
            f"install one of them on {entry.name}",
        )


def _can_start(entry: HostEntry, facts: HostFacts, refusals: _Refusals) -> None:
    if not facts.tools & {"systemd", "service"}:
        refusals.add(
            f"{entry.name}: its Docker engine does not run, and there is neither systemd nor "
            "'service' to start it with",
            f"start dockerd on {entry.name}, then run again",
        )


@dataclass(frozen=True)
class _Ours:
    """The Swarm that hosts.yaml means, if there is one already."""

    nodes: Mapping[str, bool]
    """Node id -> is a manager."""


def _our_swarm(
    inventory: Inventory, facts: Mapping[str, HostFacts], result: Plan, refusals: _Refusals
) -> _Ours | None:
    inside = [e for e in inventory.managers() if facts[e.name].control]
    if not inside:
        return None
    first = inside[0]
    for other in inside[1:]:
        if facts[other.name].swarm_id != facts[first.name].swarm_id:
            refusals.add(
                f"{first.name} and {other.name} are managers of two different Swarms",
                "decide which Swarm it is; on the other: docker swarm leave --force (its services "
                "and secrets are gone then)",
            )
    result.manager = first
    members = facts[first.name].members
    if not members:
        refusals.add(
            f"{first.name}: its Swarm does not answer: it has lost the quorum of its managers",
            "bring the other managers up; docker node ls on a manager shows who is missing",
        )
    return _Ours({m.id: m.manager for m in members})


def _membership(
    entry: HostEntry,
    all_facts: Mapping[str, HostFacts],
    ours: _Ours | None,
    result: Plan,
    refusals: _Refusals,
) -> None:
    facts = all_facts[entry.name]
    if facts.state == "inactive":
        _add_join(entry, facts, result, refusals)
    elif facts.state == "active" and ours and facts.node_id in ours.nodes:
        result.members[entry.node] = facts.node_id
        manager = ours.nodes[facts.node_id]
        if entry.swarm == "manager" and not manager:
            result.promote.append(entry)
        elif manager and entry.swarm != "manager":
            result.notes.append(
                f"{entry.name}: is a manager, hosts.yaml says worker; left as it is "
                f"(docker node demote {entry.node})"
            )
    elif (ours and _lost(facts, ours)) or _half_joined(facts, all_facts):
        _add_join(entry, facts, result, refusals)
    elif not (ours and facts.control and facts.swarm_id and entry.swarm == "manager"):
        refusals.add(*_foreign(entry, facts))


def _lost(facts: HostFacts, ours: _Ours) -> bool:
    """Whether a host was a worker of our Swarm and has been removed from its list."""
    known = {node for node in facts.managers.values() if node}
    return facts.state == "active" and not facts.control and bool(known & set(ours.nodes))


def _half_joined(facts: HostFacts, all_facts: Mapping[str, HostFacts]) -> bool:
    """Whether a host has tried in vain to join one of our managers, and is in no Swarm yet."""
    addresses = {address for one in all_facts.values() for address in one.addresses}
    targets = {address.rpartition(":")[0].strip("[]") for address in facts.managers}
    waiting = facts.state == "pending" and not facts.node_id
    return waiting and bool(targets) and targets <= addresses


def _foreign(entry: HostEntry, facts: HostFacts) -> tuple[str, str]:
    if facts.state == "locked":
        return f"{entry.name}: its Swarm is locked", "docker swarm unlock on it, then run again"
    if facts.state == "error":
        return (
            f"{entry.name}: its Swarm reports an error: {facts.error or 'no reason given'}",
            f"see docker info on {entry.name}; if nothing there is needed: "
            "docker swarm leave --force",
        )
    managers = ", ".join(sorted(facts.managers)) or "itself"
    doing = "is" if facts.state == "active" else f"is {facts.state}"
    return (
        f"{entry.name}: {doing} in another Swarm (its managers: {managers})",
        f"if it shall leave that one, on {entry.name}: docker swarm leave --force; "
        "or take it out of hosts.yaml",
    )


def _add_join(entry: HostEntry, facts: HostFacts, result: Plan, refusals: _Refusals) -> None:
    address = advertised(entry, facts)
    if address:
        result.joins.append(Join(entry, address, f"{facts.state}:{facts.node_id}"))
        return
    seen = ", ".join(facts.addresses) or "none that it shows"
    refusals.add(
        f"{entry.name}: {entry.address} is not one of its own addresses ({seen}), so it is not "
        "clear by which one the other nodes reach it",
        f"say so in hosts.yaml: hosts.{entry.name}.advertise_addr",
    )


def advertised(entry: HostEntry, facts: HostFacts) -> str:
    """The address that the other nodes reach a host by; "" where hosts.yaml has to say it.

    advertise_addr if it is set, else the host's address if the machine itself has it, else
    the only address the machine has.
    """
    if entry.advertise_addr:
        return entry.advertise_addr
    if entry.address in facts.addresses:
        return entry.address
    usable = [a for a in facts.addresses if ipaddress.ip_address(a).version == 4]
    return usable[0] if len(usable) == 1 else ""
