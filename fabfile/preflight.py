"""What is asked and checked before a deploy changes anything."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from fabfile import swarm
from fabfile.errors import SwarmkeepError
from fabfile.inventory import Inventory
from fabfile.stacks import Wanted
from fabfile.swarm import Cluster
from fabfile.transport import Command, Host

PULL_TIMEOUT = 1800.0
"""Seconds of silence allowed to `docker pull`, which prints nothing without a terminal."""


@dataclass(frozen=True)
class Survey:
    """What one host told about itself: which images and volumes it has."""

    has_image: bool
    has_volume: bool


def observe_command(inventory: Inventory) -> Command:
    """The command that reads the whole cluster."""
    return swarm.observe(inventory.network, [inventory.postgres.stack, inventory.app.stack])


def observe(manager: Host) -> Cluster:
    """Read the whole cluster from a manager."""
    return swarm.parse_cluster(manager.run(observe_command(manager.inventory)))


def survey(host: Host, wanted: Wanted) -> Survey:
    """Ask a host which of the stack's image and volumes it has."""
    volumes = " ".join(
        shlex.quote(str((entry or {}).get("name") or f"{wanted.name}_{key}"))
        for key, entry in (wanted.compose.get("volumes") or {}).items()
    )
    script = (
        "docker info >/dev/null || exit 1\n"
        f"docker image inspect {shlex.quote(wanted.image)} >/dev/null 2>&1 && echo image\n"
        f"docker volume inspect {volumes or '-'} >/dev/null 2>&1 && echo volume\n"
        "exit 0"
    )
    result = host.check(
        Command(script, changes=False),
        "asking Docker",
        hint="is Docker running there? try: systemctl status docker",
    )
    words = result.stdout.split()
    return Survey("image" in words, "volume" in words)


def pull(host: Host, image: str) -> None:
    """Pull an image on a host. Raises SwarmkeepError if it cannot be had."""
    host.check(
        Command(f"docker pull --quiet {shlex.quote(image)}"),
        f"pulling the image {image}",
        hint="check its name and tag under 'images' in hosts.yaml, and the host's registry access",
        timeout=PULL_TIMEOUT,
    )


def check_network(name: str, cluster: Cluster) -> None:
    """Raise SwarmkeepError if a network of this name exists but cannot serve."""
    network = cluster.network
    if network is None:
        return
    wrong = []
    if network["Driver"] != "overlay":
        wrong.append(f"driver {network['Driver']} instead of overlay")
    if network["Scope"] != "swarm":
        wrong.append(f"scope {network['Scope']} instead of swarm")
    if not wrong and not network.get("Attachable"):
        wrong.append("not attachable")
    if wrong:
        raise SwarmkeepError(
            f"network {name!r} exists but is wrong: {', '.join(wrong)}",
            hint=f"remove it (docker network rm {name}) or name another in hosts.yaml: network",
        )


def check_database_runs(inventory: Inventory, cluster: Cluster) -> None:
    """Raise SwarmkeepError unless the database service has a running task."""
    service = cluster.service(inventory.postgres.service)
    running = service and any(task.state == "running" for task in cluster.tasks_of(service))
    if not running:
        raise SwarmkeepError(
            f"{inventory.postgres.service}: is not running, and NocoDB exits without its database",
            hint="deploy it first: inv deploy-db (inv status shows what is there)",
        )
