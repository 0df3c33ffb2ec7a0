"""inv swarm.label, swarm.network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.commands.carrying_out import WAIT_HELP
from fabfile.commands.edge import command, is_dry, read_inventory, sudo_password

if TYPE_CHECKING:
    from fabfile.cluster import Cluster
    from fabfile.inventory import Inventory
    from fabfile.placement import LabelChange


@command(help={"wait": WAIT_HELP})
def label(ctx: Context, hosts: str = "", wait: bool = False) -> None:
    """Give every node the role label that hosts.yaml says."""

    def prepare(inventory: Inventory, cluster: Cluster) -> tuple[list[LabelChange], str]:
        from fabfile.placement import check_nodes, role_changes, strangers

        check_nodes(inventory, cluster)
        for name in strangers(inventory, cluster):
            print(f"node {name}: has a role label but is not in hosts.yaml; left as it is")
        return role_changes(inventory, cluster), ""

    _prepare(ctx, hosts, wait, prepare, "label")


@command(help={"wait": WAIT_HELP})
def network(ctx: Context, hosts: str = "", wait: bool = False) -> None:
    """Create the shared overlay network, or check it."""

    def prepare(inventory: Inventory, cluster: Cluster) -> tuple[list[LabelChange], str]:
        from fabfile.preflight import check_network

        check_network(inventory.network, cluster)
        return [], "" if cluster.network else inventory.network

    _prepare(ctx, hosts, wait, prepare, "network")


def _prepare(
    ctx: Context,
    hosts: str,
    wait: bool,
    prepare: Callable[[Inventory, Cluster], tuple[list[LabelChange], str]],
    what: str,
) -> None:
    inventory = read_inventory(hosts)

    from fabfile import origin
    from fabfile.commands.carrying_out import say
    from fabfile.endings import Options
    from fabfile.preflight import observe_any
    from fabfile.preparing import prepare_swarm
    from fabfile.transport import connect

    options = Options(f"swarm.{what}", origin.find(), wait=wait)
    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        labels, network = prepare(inventory, observe_any(fleet)[1])
        lines = prepare_swarm(fleet, labels, network=network, options=options, say=say)
    for line in lines:
        print(line)
    if not lines:
        print(f"{what}: nothing to change")
