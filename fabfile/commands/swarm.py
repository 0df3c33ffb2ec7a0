"""inv swarm.label, swarm.network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.commands.edge import command, is_dry, read_inventory, sudo_password

if TYPE_CHECKING:
    from fabfile.placement import LabelChange
    from fabfile.swarm import Cluster


@command()
def label(ctx: Context, hosts: str = "") -> None:
    """Give every node the role label that hosts.yaml says."""

    def prepare(cluster: Cluster) -> tuple[Cluster, list[LabelChange]]:
        from dataclasses import replace

        from fabfile.placement import check_nodes, role_changes, strangers

        inventory = read_inventory(hosts)
        check_nodes(inventory, cluster)
        for name in strangers(inventory, cluster):
            print(f"node {name}: has a role label but is not in hosts.yaml; left as it is")
        # Only labels here: the network is swarm.network's business.
        return replace(cluster, network=cluster.network or {}), role_changes(inventory, cluster)

    _prepare(ctx, hosts, prepare, "labels")


@command()
def network(ctx: Context, hosts: str = "") -> None:
    """Create the shared overlay network, or check it."""

    def prepare(cluster: Cluster) -> tuple[Cluster, list[LabelChange]]:
        from fabfile.preflight import check_network

        check_network(read_inventory(hosts).network, cluster)
        return cluster, []

    _prepare(ctx, hosts, prepare, "network")


def _prepare(
    ctx: Context,
    hosts: str,
    prepare: Callable[[Cluster], tuple[Cluster, list[LabelChange]]],
    what: str,
) -> None:
    inventory = read_inventory(hosts)

    from fabfile.deploy import prepare_swarm
    from fabfile.preflight import observe
    from fabfile.transport import connect

    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        manager = fleet.first_manager()
        cluster, labels = prepare(observe(manager))
        lines = prepare_swarm(manager, inventory, cluster, labels)
    for line in lines:
        print(line)
    if not lines:
        print(f"{what}: nothing to change")
