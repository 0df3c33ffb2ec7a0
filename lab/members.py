"""The lab's containers: three nodes and the S3 server. Made if missing, repaired if broken."""

from __future__ import annotations

import socket

from fabfile.base.errors import SwarmkeepError
from lab import capabilities, docker, images, storage, waiting
from lab.model import LABEL, MEMBERS, ROLE_LABEL, S3, S3_PORT, Lab

HEALTH_DEADLINE = 90.0  # seconds
SSH_PORT = 22
# dockerd takes up to 20 s to stop what it runs.
STOP_TIMEOUT = 40  # seconds


def ensure(lab: Lab, member: str) -> str:
    """Return when a member is healthy; the answer says what had to be done for that."""
    name = lab.container(member)
    done = _ensure_runs(lab, member)
    problem = waiting.until(lambda: look(lab, member), deadline=HEALTH_DEADLINE)
    if problem and done == "runs":
        # It was running and does not answer: once more from the start, data stays.
        docker.run("restart", name, timeout=STOP_TIMEOUT + 60)
        done = f"restarted ({problem})"
        problem = waiting.until(lambda: look(lab, member), deadline=HEALTH_DEADLINE)
    if problem:
        raise _unhealthy(lab, member, problem)
    return done


def wait_until_healthy(lab: Lab, member: str) -> None:
    """Return when a member is healthy; SwarmkeepError with its last log lines if it never is."""
    problem = waiting.until(lambda: look(lab, member), deadline=HEALTH_DEADLINE)
    if problem:
        raise _unhealthy(lab, member, problem)


def look(lab: Lab, member: str) -> str:
    """Return "" if a member is healthy and can be reached from here, else what is wrong."""
    check = "s3-health" if member == S3 else "node-health"
    result = lab.exec(member, check, timeout=30)
    if result.returncode:
        text = (result.stdout or result.stderr).decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else f"{check} failed"
    port = S3_PORT if member == S3 else SSH_PORT
    address = (lab.addresses[member], port)
    try:
        with socket.create_connection(address, timeout=5):
            return ""
    except OSError as error:
        return f"{address[0]}:{port} cannot be reached from this machine: {error}"


def refuse_strangers(lab: Lab) -> None:
    """SwarmkeepError if a container has a member's name and is not this lab's: it stays."""
    for member in MEMBERS:
        name = lab.container(member)
        found = docker.inspect("container", name)
        if found and (found["Config"].get("Labels") or {}).get(LABEL) != lab.name:
            raise SwarmkeepError(
                f"Docker has a container {name} that is not this lab's",
                hint="choose another name: inv lab.up --name NAME",
            )


def _ensure_runs(lab: Lab, member: str) -> str:
    name = lab.container(member)
    found = docker.inspect("container", name)
    if found is None:
        _create(lab, member)
        return "made"
    state = found["State"]
    if state.get("Paused"):
        docker.run("unpause", name)
        return "unpaused"
    if not state.get("Running"):
        docker.run("start", name)
        return "started"
    return "runs"


def _create(lab: Lab, member: str) -> None:
    """Run a new container at its fixed address: Swarm and known_hosts both know that."""
    labels = [f"{LABEL}={lab.name}", f"{ROLE_LABEL}={member}"]
    node = member != S3
    image = images.OF_MEMBER[member]
    more = capabilities.flags(cgroup_parent(lab, member)) if node else capabilities.NO_FSYNC
    docker.run(
        "run", "--detach", "--init",
        "--name", lab.container(member), "--hostname", member,
        "--network", lab.network, "--ip", lab.addresses[member],
        *(flag for label in labels for flag in ("--label", label)),
        "--mount", storage.mount(lab, member),
        "--stop-timeout", str(STOP_TIMEOUT),
        "--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=2",
        *more, image.tag,
        timeout=120,
    )  # fmt: skip


def cgroup_parent(lab: Lab, member: str) -> str:
    """Where a node's own containers live in a cgroup v1 tree, which is shared with the machine."""
    return f"/swarmkeep-lab/{lab.name}/{member}"


def _unhealthy(lab: Lab, member: str, problem: str) -> SwarmkeepError:
    name = lab.container(member)
    logs = docker.attempt("logs", "--tail", str(docker.LAST_LINES), name)
    text = (logs.stdout + logs.stderr).decode("utf-8", "replace")
    return SwarmkeepError(
        f"{member} is not healthy after {HEALTH_DEADLINE:.0f} s: {problem}",
        details=tuple(text.splitlines()[-docker.LAST_LINES :]),
        hint=f"docker logs {name}",
    )
