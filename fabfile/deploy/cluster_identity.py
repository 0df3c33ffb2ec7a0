"""Which PostgreSQL cluster came up: it must be the one that was there before the deploy."""

from __future__ import annotations

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy import preflight_data
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import Fleet
from fabfile.swarm import docker_commands, postgres
from fabfile.swarm.placement import LabelChange
from fabfile.swarm.state import Cluster


def check(fleet: Fleet, wanted: Wanted, after: Cluster, *, known: str) -> str:
    """The system identifier that PostgreSQL came up with.

    Raises SwarmkeepError if it is another than `known`; "" where any will do.
    """
    found = postgres.system_identifier(fleet, after, [wanted.password])
    if known not in ("", found):
        raise SwarmkeepError(
            f"{wanted.name}: PostgreSQL came up with another cluster ({found}) than the "
            f"one that was there before ({known})",
            hint="find out what changed the place of its data (inv plan); to take the other "
            f"one all the same: inv deploy-db {preflight_data.LEAVE_DATA}",
        )
    return found


def labels(stack: str, found: str, after: Cluster) -> list[LabelChange]:
    """The label of the data node that keeps the identifier `found`, if it is not there yet."""
    key = docker_commands.cluster_label(stack)
    return [
        LabelChange(node.name, {key: found}, node_id=node.id)
        for node in after.nodes
        if found
        and docker_commands.holds_data(node.labels, stack)
        and node.labels.get(key) != found
    ]
