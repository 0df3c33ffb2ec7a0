"""Does NocoDB really work: asks it something that it needs its database for."""

from __future__ import annotations

import shlex

from fabfile.errors import SwarmkeepError
from fabfile.inventory import Inventory
from fabfile.swarm import Cluster
from fabfile.transport import Command, Fleet


def await_app(fleet: Fleet, inventory: Inventory, cluster: Cluster, deadline: float = 60) -> None:
    """Wait until the app answers a request that needs its database.

    /api/v1/health stays 200 without a database; /api/v1/db/meta/nocodb/info does not.
    Asked inside the container, so it does not depend on how the port is published.
    Raises SwarmkeepError.
    """
    tasks = [
        task
        for service in cluster.stack(inventory.app.stack)
        for task in cluster.tasks_of(service)
        if task.state == "running" and task.desired == "running"
    ]
    names = {node.id: node.name for node in cluster.nodes}
    for task in tasks:
        entry = inventory.host_of_node(names.get(task.node_id, ""))
        if entry is None:
            continue
        script = _ask_app(task.container_id, deadline)
        result = fleet.host(entry).run(Command(script, changes=False), timeout=deadline + 30)
        if result.exit_code:
            said = result.stdout.strip().splitlines()
            raise SwarmkeepError(
                f"{inventory.app.stack}: NocoDB runs on {entry.name} but cannot use its database: "
                f"{said[-1] if said else 'no answer'}",
                hint="look at: inv status, and the service's log: docker service logs "
                f"{inventory.app.stack}_nocodb",
            )


def _ask_app(container: str, deadline: float) -> str:
    probe = (
        "fetch('http://127.0.0.1:8080/api/v1/db/meta/nocodb/info')"
        ".then(r => { console.log('HTTP ' + r.status); process.exit(r.ok ? 0 : 1) },"
        " e => { console.log(String(e.cause || e)); process.exit(1) })"
    )
    return (
        f"end=$(( $(date +%s) + {deadline:.0f} ))\n"
        f"until docker exec {shlex.quote(container)} node -e {shlex.quote(probe)} 2>&1; do\n"
        '  [ "$(date +%s)" -lt "$end" ] || exit 1\n'
        "  sleep 0.5\n"
        "done"
    )
