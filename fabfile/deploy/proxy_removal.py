"""Removing the proxy's stack, with all that was made for it but its certificates."""

from __future__ import annotations

from fabfile.base.errors import ConfigError
from fabfile.deploy.finish_script import Options
from fabfile.deploy.observation import observe_any
from fabfile.deploy.preflight_project import check_removal
from fabfile.deploy.stack_removal import Say, carry_out, removal_script
from fabfile.ssh.fleet import Fleet
from fabfile.swarm import docker_commands, placement
from fabfile.swarm.state import Cluster


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
    _check_apps(fleet, cluster)
    script = removal_script(stack, cluster, fleet.inventory.every_stack)
    for change in changes:
        label = docker_commands.label_node(change.address, change.add, change.remove)
        script += f"{label} >/dev/null\n"
    if not carry_out(fleet, manager, stack, script, options, say):
        return True
    say(f"removed stack {stack} with its configs, secrets and releases")
    say(f"left in place: volume {stack}_data with the certificates, on the nodes it ran on")
    return True


def _check_apps(fleet: Fleet, cluster: Cluster) -> None:
    inventory = fleet.inventory
    stacks = (inventory.app.stack, *(one.stack for one in inventory.apps))
    for service in (one for stack in stacks for one in cluster.stack(stack)):
        entries = service.template.get("Networks") or ()
        names = {cluster.networks.get(str(one["Target"])) for one in entries}
        if inventory.proxy.network in names:
            raise ConfigError(
                f"{service.name}: stands behind {inventory.proxy.stack}, its only way in",
                hint="deployed without a domain it publishes a port of its own again: inv deploy; "
                "then this again",
            )
