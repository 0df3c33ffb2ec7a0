"""Does an app beside NocoDB work: asks each of its tasks the request that hosts.yaml names."""

from __future__ import annotations

import shlex
import time

from fabfile.base.errors import SwarmkeepError
from fabfile.config.apps import HealthRequest, OtherApp
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.remote_command import Command
from fabfile.ssh.tunnel import Request
from fabfile.swarm.state import Cluster, Task

POLL_SECONDS = 0.5
_BRIDGE = "docker_gwbridge"
"""By which Swarm gives every task on an overlay network a way out; the node itself reaches it so:
https://docs.docker.com/engine/swarm/networking/.
"""


def await_other_app(fleet: Fleet, app: OtherApp, cluster: Cluster, deadline: float = 60) -> str:
    """Wait until every running task of the app answers as it should; return what was seen, in
    words. Where hosts.yaml names no request, that tasks run is what is seen.

    The request goes from the node to the task, so it does not depend on how a port is published.
    Raises SwarmkeepError, also if there is nobody that could be asked.
    """
    service = cluster.service(app.service_name)
    tasks = [
        task
        for task in (cluster.tasks_of(service) if service else ())
        if task.state == task.desired == "running"
    ]
    if not tasks:
        raise SwarmkeepError(
            f"{app.service_name}: has no running task",
            hint=f"see inv status; inv deploy-app {app.name} starts it, if {app.compose} wants any",
        )
    if app.health is None:
        return f"{app.name} runs (apps.{app.name}.health names no request that could tell more)"
    names = {node.id: node.name for node in cluster.nodes}
    asked = 0
    for task in tasks:
        entry = fleet.inventory.host_of_node(names.get(task.node_id, ""))
        if entry:
            _await_task(fleet.host(entry), app, app.health, task, deadline)
            asked += 1
    if not asked:
        nodes = ", ".join(sorted({names.get(task.node_id, "?") for task in tasks}))
        raise SwarmkeepError(
            f"{app.service_name}: runs on {nodes} only, which is no host of hosts.yaml: whether it "
            "answers could not be asked",
            hint=f"add that host to hosts.yaml (its 'node:'), or keep {app.name} off it",
        )
    return f"{app.name} answers {app.health.path} with {app.health.status}"


def _await_task(
    host: Host, app: OtherApp, health: HealthRequest, task: Task, deadline: float
) -> None:
    end = time.monotonic() + deadline
    address = _address(host, app, task)
    request = Request("localhost", app.port, address=address, path=health.path)
    while True:
        try:
            status = host.get(request).status
            said = f"HTTP {status}" if status else "no HTTP"
        except OSError as error:
            status, said = 0, str(error) or type(error).__name__
        if status == health.status:
            return
        if time.monotonic() > end:
            raise SwarmkeepError(
                f"{app.service_name}: on {host.name}, port {app.port}{health.path} answers {said} "
                f"instead of HTTP {health.status}",
                hint=f"look at: docker service logs {app.service_name}; are apps.{app.name}.port "
                "and health.path right?",
            )
        time.sleep(POLL_SECONDS)


def _address(host: Host, app: OtherApp, task: Task) -> str:
    """The task's address as its node sees it. Raises SwarmkeepError if it has none."""
    container = shlex.quote(task.container_id)
    sandbox = f"docker inspect --format '{{{{.NetworkSettings.SandboxID}}}}' {container}"
    names = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{println}}{{end}}"
    script = (
        f"s=$({sandbox}) && docker network inspect --format {shlex.quote(names)} {_BRIDGE} "
        '| sed -n "s|^gateway_$(printf %.12s "$s") \\([0-9.]*\\)/.*|\\1|p"'
    )
    found = host.check(Command(script, changes=False), "asking for the task's address").stdout
    if not found.strip():
        raise SwarmkeepError(
            f"{app.service_name}: its task on {host.name} has no address on {_BRIDGE}, so nobody "
            "can ask it",
            hint=f"is it on an internal network only? Give it another, or take "
            f"apps.{app.name}.health out of hosts.yaml",
        )
    return found.split()[0]
