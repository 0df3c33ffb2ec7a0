"""Removing the proxy's stack, with all that was made for it but its certificates."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from fabfile.base.errors import ConfigError
from fabfile.deploy.finish_script import Options
from fabfile.deploy.locked_change import Record, locked
from fabfile.deploy.observation import observe_any
from fabfile.deploy.preflight_project import check_removal
from fabfile.ssh.fleet import Fleet
from fabfile.ssh.remote_command import Command, succeeded
from fabfile.swarm import docker_commands, placement
from fabfile.swarm.state import Cluster

Say = Callable[[str], None]


def remove(fleet: Fleet, options: Options, project: str, say: Say) -> bool:
    """Remove stack, configs, secrets and node labels; return whether there was anything.

    `project` is this one's identity. Raises ConfigError where the stack is somebody else's, or the
    app still stands behind it.
    """
    manager, cluster = observe_any(fleet)
    stack = fleet.inventory.proxy.stack
    changes = placement.proxy_changes(fleet.inventory, cluster)
    if not cluster.stack(stack) and not changes:
        return False
    check_removal(cluster, stack, project, "proxy")
    _check_app(fleet, cluster)
    script = _script(stack)
    for change in changes:
        label = docker_commands.label_node(change.address, change.add, change.remove)
        script += f"{label} >/dev/null\n"
    if fleet.dry:
        manager.run(Command(script))
        return True
    record = Record()
    with locked(manager, options, record, say=say) as lease:
        succeeded(lease.change(script), f"removing {stack}")
        record.changes.append(f"stack {stack}: removed")
    say(f"removed stack {stack} with its configs and secrets")
    say(f"left in place: volume {stack}_data with the certificates, on the nodes it ran on")
    return True


def _check_app(fleet: Fleet, cluster: Cluster) -> None:
    inventory = fleet.inventory
    for service in cluster.stack(inventory.app.stack):
        entries = service.template.get("Networks") or ()
        names = {cluster.networks.get(str(one["Target"])) for one in entries}
        if inventory.proxy.network in names:
            raise ConfigError(
                f"{service.name}: stands behind {inventory.proxy.stack}, its only way in",
                hint="inv deploy-app publishes its port again; then this again",
            )


def _script(stack: str) -> str:
    """Services and network, then what was made for them; a lock's changes end after 40 s."""
    name = shlex.quote(stack)
    label = f"label={docker_commands.STACK_LABEL}={stack}"
    ours = f"label={docker_commands.FILE_LABEL}={stack}"
    return (
        "set -e\n"
        f"docker stack rm {name} >/dev/null 2>&1 || true\n"
        f'i=0; while [ -n "$(docker service ls -q --filter {label}; '
        f'docker network ls -q --filter {label})" ]; do\n'
        f"  [ $i -lt 60 ] || {{ echo 'the network of {stack} is still in use; next: docker network "
        "inspect, disconnect what is on it, then the same again' >&2; exit 1; }\n"
        f"  docker stack rm {name} >/dev/null 2>&1 || true\n"
        "  sleep 0.5; i=$((i + 1)); done\n"
        "for kind in config secret; do\n"
        f"  for one in $(docker $kind ls -q --filter {ours}); do\n"
        '    docker $kind rm "$one" >/dev/null\n'
        "  done\ndone\n"
    )
