"""inv swarm.label, swarm.network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.terminal.command import command, is_dry, read_inventory, sudo_password
from fabfile.terminal.deploy_dialog import WAIT_HELP

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.swarm.placement import LabelChange
    from fabfile.swarm.state import Cluster


@command(help={"wait": WAIT_HELP})
def label(ctx: Context, hosts: str = "", wait: bool = False) -> None:
    """Give every node the labels that hosts.yaml says."""

    def prepare(inventory: Inventory, cluster: Cluster) -> tuple[list[LabelChange], str]:
        from fabfile.swarm.placement import check_nodes, label_changes, strangers

        check_nodes(inventory, cluster)
        for name in strangers(inventory, cluster):
            print(f"node {name}: has a role label but is not in hosts.yaml; left as it is")
        return label_changes(inventory, cluster), ""

    _prepare(ctx, hosts, wait, prepare, "label")


@command(help={"wait": WAIT_HELP})
def network(ctx: Context, hosts: str = "", wait: bool = False) -> None:
    """Create the shared overlay network, or check it."""

    def prepare(inventory: Inventory, cluster: Cluster) -> tuple[list[LabelChange], str]:
        from fabfile.deploy.preflight import check_network

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

    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.labels_and_network import prepare_swarm
    from fabfile.deploy.observation import observe_any
    from fabfile.ssh.fleet import connect
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import say

    options = Options(f"swarm.{what}", operator.find(), wait=wait)
    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        labels, network = prepare(inventory, observe_any(fleet)[1])
        lines = prepare_swarm(fleet, labels, network=network, options=options, say=say)
    for line in lines:
        print(line)
    if not lines:
        print(f"{what}: nothing to change")
