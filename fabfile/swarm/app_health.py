"""Does NocoDB really work: asks it something that it needs its database for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.ssh.fleet import Fleet
from fabfile.ssh.remote_command import Command
from fabfile.swarm.other_app_health import await_other_app
from fabfile.swarm.state import Cluster, Task

TRY_SECONDS = 10
"""How long one request may take: a NocoDB that accepts and then hangs is no longer waited for."""


def await_works(fleet: Fleet, role: str, cluster: Cluster) -> str:
    """Wait until the app of a role (NocoDB, or one beside it) works; return that in words.

    Raises SwarmkeepError as the functions for each of them.
    """
    other = fleet.inventory.other_app(role)
    if other:
        return await_other_app(fleet, other, cluster)
    await_app(fleet, fleet.inventory, cluster)
    return "NocoDB answers from its database"


def await_app(fleet: Fleet, inventory: Inventory, cluster: Cluster, deadline: float = 60) -> None:
    """Wait until every running task of the app answers a request that needs its database.

    /api/v1/health stays 200 without a database; /api/v1/db/meta/nocodb/info does not.
    Asked inside the container, so it does not depend on how the port is published.
    Raises SwarmkeepError, also if there is nobody that could be asked.
    """
    name = f"{inventory.app.stack}_nocodb"
    service = cluster.service(name)
    tasks = [
        task
        for task in (cluster.tasks_of(service) if service else ())
        if task.state == "running" and task.desired == "running"
    ]
    names = {node.id: node.name for node in cluster.nodes}
    nodes = sorted({names.get(task.node_id, "?") for task in tasks})
    asked = [(task, inventory.host_of_node(names.get(task.node_id, ""))) for task in tasks]
    if not any(entry for _, entry in asked):
        raise _nobody(name, nodes)
    for task, entry in asked:
        if entry:
            _await_task(fleet, inventory, entry, task, deadline)


def _await_task(
    fleet: Fleet, inventory: Inventory, entry: HostEntry, task: Task, deadline: float
) -> None:
    script = _ask_app(task.container_id, deadline)
    result = fleet.host(entry).run(Command(script, changes=False), timeout=deadline + 60)
    if result.exit_code:
        said = result.stdout.strip().splitlines()
        raise SwarmkeepError(
            f"{inventory.app.stack}: NocoDB runs on {entry.name} but cannot use its database: "
            f"{said[-1] if said else 'no answer'}",
            hint="look at: inv status, and the service's log: docker service logs "
            f"{inventory.app.stack}_nocodb",
        )


def _nobody(service: str, nodes: Sequence[str]) -> SwarmkeepError:
    if nodes:
        return SwarmkeepError(
            f"{service}: runs on {', '.join(nodes)} only, which is no host of hosts.yaml: "
            "whether NocoDB answers could not be asked",
            hint="add that host to hosts.yaml (its 'node:'), or keep NocoDB off it, then run again",
        )
    return SwarmkeepError(
        f"{service}: has no running task, so NocoDB does not answer",
        hint="see inv status; inv deploy-app starts it, if compose/compose-app.yml wants any",
    )


def _ask_app(container: str, deadline: float) -> str:
    probe = (
        "fetch('http://127.0.0.1:8080/api/v1/db/meta/nocodb/info',"
        f" {{signal: AbortSignal.timeout({TRY_SECONDS * 1000})}})"
        ".then(r => { console.log('HTTP ' + r.status); process.exit(r.ok ? 0 : 1) },"
        f" e => {{ console.log(e.name === 'TimeoutError' ? 'no answer within {TRY_SECONDS} s'"
        " : String(e.cause || e)); process.exit(1) })"
    )
    # The container itself may hang, too.
    run = f"timeout -k 5 {TRY_SECONDS + 5} docker exec {shlex.quote(container)}"
    return (
        f"end=$(( $(date +%s) + {deadline:.0f} ))\n"
        f"until {run} node -e {shlex.quote(probe)} 2>&1; do\n"
        '  [ "$(date +%s)" -lt "$end" ] || exit 1\n'
        "  sleep 0.5\n"
        "done"
    )
