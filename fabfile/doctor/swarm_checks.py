"""Verdicts on the Swarm as a whole. Pure: what its managers and all hosts said -> findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fabfile.base.check import Check
from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import Inventory
from fabfile.deploy.preflight import check_network
from fabfile.deploy.preflight_project import check_project, owners
from fabfile.deploy.stacks import Wanted
from fabfile.doctor.facts import Facts
from fabfile.doctor.finding import Finding, failure
from fabfile.nodes.host_facts import version_of
from fabfile.swarm import placement
from fabfile.swarm.docker_commands import data_label, holds_data
from fabfile.swarm.state import Cluster

GROUP = "swarm"


def judge_swarm(
    inventory: Inventory, facts: Mapping[str, Facts], wanted: Sequence[Wanted] | None
) -> list[Finding]:
    """Every check of the Swarm. `facts` are those of the hosts that could be asked, by name;
    `wanted` the stacks as they should be, None where they cannot be known.
    """
    told = [facts[m.name] for m in inventory.managers() if m.name in facts]
    witness = next((f for f in told if f.cluster), None)
    engines = _engines(facts)
    if witness is None or witness.cluster is None:
        reasons = "; ".join(f.cluster_problem for f in told) or "no manager could be asked"
        lost = Check("managers", False, reasons, "see the managers' own checks; inv swarm.init")
        return [Finding(GROUP, lost, unreachable=not told), *engines]
    cluster = witness.cluster
    checks = [
        _quorum(witness.quorum),
        *_known(inventory, cluster),
        _nodes(inventory, cluster),
        *_former(cluster),
        *_project(inventory, cluster, wanted),
        _labels(inventory, cluster),
        _data(inventory, cluster),
        _secrets(cluster, wanted),
    ]
    checks += _gossip(facts)
    return [*(Finding(GROUP, c) for c in checks), _network(inventory, cluster), *engines]


def _quorum(managers: Mapping[str, str]) -> Check:
    gone = sorted(name for name, state in managers.items() if state not in ("Leader", "Reachable"))
    count = len(managers)
    spare = (count - 1) // 2 - len(gone)
    detail = f"{count - len(gone)} of {count} reachable"
    if not gone:
        can = {0: "none may fail", 1: "one may fail"}.get(spare, f"{spare} may fail")
        detail += f", {can}" + ("; an odd number is better" if count % 2 == 0 else "")
        return Check("managers", True, detail)
    return Check(
        "managers",
        False,
        f"{detail}, {', '.join(gone)} is not; "
        + (f"{spare} more may fail" if spare > 0 else "one more failure stops the Swarm"),
        "bring it back: is the host up, its Docker running, 2377/tcp open?",
    )


def _known(inventory: Inventory, cluster: Cluster) -> list[Check]:
    try:
        placement.check_nodes(inventory, cluster)
    except SwarmkeepError as error:
        return [Check("members", False, error.message, "inv swarm.init joins them; or set 'node:'")]
    return [Check("members", True, f"all {len(inventory.hosts)} hosts are nodes of it")]


def _nodes(inventory: Inventory, cluster: Cluster) -> Check:
    mine = [n for n in cluster.nodes if inventory.host_of_node(n.name)]
    bad = [n for n in mine if (n.state, n.availability) != ("ready", "active")]
    drained = [n for n in bad if n.state == "ready"]
    hint = (
        f"inv swarm.activate {drained[0].name}"
        if drained
        else "is the host up, its Docker running, 7946 and 2377 open?"
    )
    said = ", ".join(f"{n.name} is {n.state}/{n.availability}" for n in bad)
    return Check("nodes", not bad, said or "all ready and active", hint)


def _former(cluster: Cluster) -> list[Check]:
    """Entries of nodes that have joined again, each with the command that removes it."""
    if not cluster.former:
        return []
    said = ", ".join(f"{node.name} ({node.id}, {node.state})" for node in cluster.former)
    remove = " ".join(f"docker node rm --force {node.id};" for node in cluster.former)
    return [
        Check(
            "former nodes",
            False,
            f"left over of nodes that have joined again: {said}",
            f"on a manager: {remove.rstrip(';')}",
        )
    ]


def _project(
    inventory: Inventory, cluster: Cluster, wanted: Sequence[Wanted] | None
) -> list[Check]:
    """Whether this project is alone with its names, and who is beside it on the Swarm."""
    if not wanted:
        return []
    try:
        check_project(inventory, wanted[0], cluster, take_over=False)
    except SwarmkeepError as error:
        return [Check("project", False, error.message, error.hint)]
    mine = inventory.every_stack
    others = {str(owner) for stack, owner in owners(cluster).items() if stack not in mine}
    beside = f"; beside it on this Swarm: {', '.join(sorted(others))}" if others else ""
    return [Check("project", True, f"{wanted[0].project}{beside}")]


def _labels(inventory: Inventory, cluster: Cluster) -> Check:
    changes = placement.label_changes(inventory, cluster)
    wrong = "; ".join(f"{change.node} needs {change}" for change in changes)
    others = placement.strangers(inventory, cluster)
    more = f"; {', '.join(others)}: a role label, but not in hosts.yaml" if others else ""
    return Check(
        "labels", not changes, (wrong or "as hosts.yaml says") + more, "inv swarm.label sets them"
    )


def _data(inventory: Inventory, cluster: Cluster) -> Check:
    stack = inventory.postgres.stack
    holders = [n.name for n in cluster.nodes if holds_data(n.labels, stack)]
    deployed = bool(cluster.stack(stack))
    if len(holders) == 1:
        entry = inventory.host_of_node(holders[0])
        named = inventory.postgres.data_host
        ok = bool(entry and entry.role == "db" and named in ("", entry.name))
        return Check(
            "data node",
            ok,
            f"{holders[0]} holds the data"
            + ("" if ok else f", hosts.yaml wants {named or 'a host with role db'}"),
            "set db.data_host and the host's role in hosts.yaml to where the data is",
        )
    if not holders and not deployed:
        return Check("data node", True, f"{stack} is not deployed yet")
    return Check(
        "data node",
        False,
        f"{', '.join(holders) or 'no node'} has the label {data_label(stack)}, want exactly one",
        "inv deploy-db sets it; with several: remove it where the data is not",
    )


def _secrets(cluster: Cluster, wanted: Sequence[Wanted] | None) -> Check:
    if wanted is None:
        return Check("secrets", False, "cannot be compared", "see the checks 'vault' and 'compose'")
    present = {version.name for version in cluster.secrets}
    deployed = [stack for stack in wanted if cluster.stack(stack.name)]
    new = [s.version for w in deployed for s in w.secrets if s.version.name not in present]
    old = [version.base for version in new if not version.stack]
    files = [version.base for version in new if version.stack]
    missing = [w.name for w in wanted if w not in deployed]
    detail = f"not what the vault says: {', '.join(old)}" if old else "as the vault says"
    if files:
        detail += f"; not what the files of compose/ say: {', '.join(files)}"
    if missing:
        detail += f"; not deployed yet: {', '.join(missing)}"
    return Check("secrets", not new, detail, "inv deploy brings them in")


def _network(inventory: Inventory, cluster: Cluster) -> Finding:
    name = inventory.network
    try:
        check_network(name, cluster)
    except SwarmkeepError as error:
        return failure(GROUP, "network", error)
    there = cluster.network is not None
    return Finding(
        GROUP,
        Check(
            "network",
            there,
            f"{name} {'is an attachable overlay' if there else 'does not exist yet'}",
            "inv swarm.network makes it (inv deploy does too)",
        ),
    )


def _gossip(facts: Mapping[str, Facts]) -> list[Check]:
    """Whether the nodes with tasks on our network hear each other: that needs 7946/tcp and udp."""
    addresses = {name: fact.node_address for name, fact in facts.items()}
    inside = [name for name, fact in facts.items() if addresses[name] in fact.peers]
    if len(inside) < 2:
        return []
    deaf = [
        f"{one} does not hear {other}"
        for one in inside
        for other in inside
        if addresses[other] not in facts[one].peers
    ]
    return [
        Check(
            "gossip",
            not deaf,
            "; ".join(deaf) or f"{', '.join(inside)} hear each other on the network",
            "open 7946/tcp and 7946/udp between these nodes in both directions",
        )
    ]


def _engines(facts: Mapping[str, Facts]) -> list[Finding]:
    versions = {n: str(f.info["ServerVersion"]) for n, f in facts.items() if f.info}
    if not versions:
        return []
    same = len({version_of(version)[0] for version in versions.values()}) == 1
    all_of = ", ".join(sorted({v.partition("+")[0] for v in versions.values()}))
    detail = (
        f"{all_of} everywhere"
        if same
        else ", ".join(f"{name} has {version}" for name, version in sorted(versions.items()))
    )
    check = Check("engines", same, detail, "bring all nodes to the same major version")
    return [Finding(GROUP, check)]
