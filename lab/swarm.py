"""The Swarm inside the lab: made once, joined again where a node was lost."""

from __future__ import annotations

import json
from typing import Any

from fabfile.base.errors import SwarmkeepError
from lab import docker, waiting
from lab.model import NODES, Lab

PORT = 2377
READY_DEADLINE = 60.0  # seconds

MANAGER = NODES[0]
WORKERS = NODES[1:]


def ensure(lab: Lab) -> list[str]:
    """Return when every node is Ready; the answer names what had to be done."""
    done = []
    if _ensure_manager(lab):
        done.append(f"begun on {MANAGER}")
    for worker in WORKERS:
        known = {node["ID"] for node in nodes(lab)}
        mine = _state(lab, worker)
        if mine.get("LocalNodeState") == "active" and mine.get("NodeID") in known:
            continue
        _join(lab, worker, leave_first=mine.get("LocalNodeState") != "inactive")
        done.append(f"{worker} joined")
    problem = waiting.until(lambda: look(lab), deadline=READY_DEADLINE)
    if problem:
        raise SwarmkeepError(problem, hint=f"docker exec {lab.container(MANAGER)} docker node ls")
    _forget_lost_nodes(lab)
    return done


def look(lab: Lab) -> str:
    """Return "" if every node of the lab is Ready, else what is wrong."""
    ready = {node["ID"] for node in nodes(lab) if node["Status"] == "Ready"}
    # By id: a node that was lost stays "Ready" for a while beside its successor of the same name.
    lacking = [name for name in NODES if _state(lab, name).get("NodeID") not in ready]
    return f"not Ready in the Swarm: {', '.join(lacking)}" if lacking else ""


def nodes(lab: Lab) -> list[dict[str, Any]]:
    """The Swarm's nodes as `docker node ls` has them; none if the manager does not answer."""
    result = lab.exec(MANAGER, "docker", "node", "ls", "--format", "{{json .}}", timeout=30)
    if result.returncode:
        return []
    return [json.loads(line) for line in result.stdout.decode().splitlines()]


def _ensure_manager(lab: Lab) -> bool:
    """Begin a Swarm unless there is one; return whether it was begun."""

    def undecided() -> str:
        state = _state(lab, MANAGER)
        # After a start the node is "pending" until its Raft log is read.
        if state.get("LocalNodeState") in ("active", "inactive"):
            return ""
        return f"the Swarm of {MANAGER} is {state.get('LocalNodeState')}: {state.get('Error')}"

    problem = waiting.until(undecided, deadline=READY_DEADLINE)
    if problem:
        raise SwarmkeepError(problem)
    if _state(lab, MANAGER)["LocalNodeState"] == "active":
        # It answers once it has elected itself.
        waiting.until(lambda: "" if nodes(lab) else "no leader", deadline=READY_DEADLINE)
        return False
    address = lab.addresses[MANAGER]
    docker.inside(
        lab.container(MANAGER),
        *("docker", "swarm", "init", "--advertise-addr", address, "--listen-addr", address),
    )
    return True


def _join(lab: Lab, worker: str, *, leave_first: bool) -> None:
    if leave_first:
        lab.exec(worker, "docker", "swarm", "leave", "--force")
    token = docker.inside(
        lab.container(MANAGER), "docker", "swarm", "join-token", "--quiet", "worker"
    )
    address = lab.addresses[worker]
    request = {
        "ListenAddr": f"{address}:{PORT}",
        "AdvertiseAddr": address,
        "RemoteAddrs": [f"{lab.addresses[MANAGER]}:{PORT}"],
        "JoinToken": token.strip(),
    }
    docker.inside(lab.container(worker), "swarm-join", input=json.dumps(request).encode())


def _forget_lost_nodes(lab: Lab) -> None:
    """A node whose container was made anew leaves its former self behind, which goes Down later."""
    members = {_state(lab, name).get("NodeID") for name in WORKERS}
    for node in nodes(lab):
        if node["Hostname"] in WORKERS and node["ID"] not in members:
            docker.inside(lab.container(MANAGER), "docker", "node", "rm", "--force", node["ID"])


def _state(lab: Lab, node: str) -> dict[str, Any]:
    text = docker.inside(lab.container(node), "docker", "info", "--format", "{{json .Swarm}}")
    state: dict[str, Any] = json.loads(text)
    return state
