"""Which node gets which labels, and which one holds the database's data. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.config.project import Project
from fabfile.swarm.docker_commands import (
    OLD_DATA_LABEL,
    cluster_label,
    data_label,
    holds_data,
    project_label,
    proxy_label,
)
from fabfile.swarm.state import Cluster


@dataclass(frozen=True)
class LabelChange:
    """What to set and remove on one node."""

    node: str
    add: Mapping[str, str]
    remove: tuple[str, ...] = ()
    loses: str = ""
    """The role that the node loses by it, and with it the tasks that run there; "" for none."""
    node_id: str = field(default="", compare=False)
    """Docker refuses a name that several nodes have."""

    @property
    def address(self) -> str:
        """What Docker is to call the node."""
        return self.node_id or self.node

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.add.items()]
        return " ".join(words + [f"-{key}" for key in self.remove])


@dataclass(frozen=True)
class Labels:
    """The labels that a deploy changes: before the stack, and once the stack has converged."""

    before: tuple[LabelChange, ...] = ()
    after: tuple[LabelChange, ...] = ()


def check_nodes(inventory: Inventory, cluster: Cluster) -> None:
    """Raise SwarmkeepError naming every host whose node the Swarm does not know, ConfigError for
    two living nodes of one name.
    """
    for nodes in cluster.namesakes():
        ids = " and ".join(node.id for node in nodes)
        raise ConfigError(
            f"the Swarm has {len(nodes)} living nodes named {nodes[0].name!r}: {ids}",
            hint="rename one of the machines (hostnamectl) and join it again; if one has just "
            "joined again, its former entry is Down in some seconds: docker node ls",
        )
    unknown = [h for h in inventory.hosts if (h.role or h.swarm) and not cluster.node(h.node)]
    if not unknown:
        return
    known = ", ".join(sorted(node.name for node in cluster.nodes))
    raise SwarmkeepError(
        "; ".join(f"hosts.{h.name}: the Swarm has no node {h.node!r}" for h in unknown),
        hint=f"the Swarm's nodes are: {known}. Join the host, or set its 'node:' in hosts.yaml",
    )


def role_changes(inventory: Inventory, cluster: Cluster) -> list[LabelChange]:
    """The labels that make every node's role what hosts.yaml says."""
    changes = []
    key = inventory.role_label
    for host in inventory.hosts:
        node = cluster.node(host.node)
        if node is None or node.labels.get(key, "") == host.role:
            continue
        if host.role:
            loses = node.labels.get(key, "")
            changes.append(LabelChange(node.name, {key: host.role}, loses=loses, node_id=node.id))
        else:
            loses = node.labels[key]
            changes.append(LabelChange(node.name, {}, (key,), loses=loses, node_id=node.id))
    return changes


def strangers(inventory: Inventory, cluster: Cluster) -> list[str]:
    """Nodes that carry a role label but are not in hosts.yaml: services may run there too."""
    return [
        node.name
        for node in cluster.nodes
        if node.labels.get(inventory.role_label) in ("db", "app")
        and not inventory.host_of_node(node.name)
    ]


def data_host(
    inventory: Inventory, cluster: Cluster, with_volume: Sequence[HostEntry], *, move: bool
) -> HostEntry:
    """The db host that PostgreSQL must run on.

    `with_volume` are the db hosts on which the stack's volume exists. Raises
    SwarmkeepError where running there would bring up an empty database beside the real
    one, unless `move` says that this is wanted.
    """
    stack = inventory.postgres.stack
    labelled = [n.name for n in cluster.nodes if holds_data(n.labels, stack)]
    chosen = _chosen(inventory, labelled, with_volume)
    if move:
        return chosen
    elsewhere = [name for name in labelled if name != chosen.node]
    if elsewhere:
        raise SwarmkeepError(
            f"{stack}: its data is on node {elsewhere[0]!r}, but hosts.yaml wants it on "
            f"{chosen.name!r}, where it would come up empty",
            hint="set db.data_host back, or, if the data may stay behind: "
            "inv deploy-db --move-data-host",
        )
    if with_volume and chosen not in with_volume:
        names = ", ".join(host.name for host in with_volume)
        raise SwarmkeepError(
            f"{stack}: its volume is on {names}, not on {chosen.name!r}, "
            "where it would come up empty",
            hint=f"set db.data_host: {with_volume[0].name}, or, if the data may stay behind: "
            "inv deploy-db --move-data-host",
        )
    return chosen


def data_changes(
    stack: str, host: HostEntry, cluster: Cluster, project: Project, system_id: str
) -> list[LabelChange]:
    """The labels that pin the database stack to its one node, and say what it has there.

    `system_id` is that of the cluster there, "" for none, or for one that is not known.
    """
    changes = []
    wanted = {data_label(stack): "true", project_label(stack): project.label}
    if system_id:
        wanted[cluster_label(stack)] = system_id
    ours = (data_label(stack), project_label(stack), cluster_label(stack))
    for node in cluster.nodes:
        if node.name == host.node:
            add = {key: text for key, text in wanted.items() if node.labels.get(key) != text}
            gone = tuple(key for key in ours if key in node.labels and key not in wanted)
            if add or gone:
                changes.append(LabelChange(node.name, add, gone, node_id=node.id))
        elif holds_data(node.labels, stack):
            gone = tuple(key for key in ours if key in node.labels)
            if node.labels.get(OLD_DATA_LABEL) == stack:
                gone += (OLD_DATA_LABEL,)
            changes.append(LabelChange(node.name, {}, gone, loses="db", node_id=node.id))
    return changes


def proxy_changes(inventory: Inventory, cluster: Cluster) -> list[LabelChange]:
    """The labels that make the proxy run on the hosts that hosts.yaml names, and on no other."""
    changes = []
    key = proxy_label(inventory.proxy.stack)
    wanted = {host.node for host in inventory.with_role("proxy")}
    for node in cluster.nodes:
        if node.name in wanted and node.labels.get(key) != "true":
            changes.append(LabelChange(node.name, {key: "true"}, node_id=node.id))
        elif node.name not in wanted and key in node.labels:
            changes.append(LabelChange(node.name, {}, (key,), loses="proxy", node_id=node.id))
    return changes


def label_changes(inventory: Inventory, cluster: Cluster) -> list[LabelChange]:
    """Those of the roles, and of a proxy that is deployed and that hosts.yaml still has."""
    changes = role_changes(inventory, cluster)
    if inventory.proxy.hosts and cluster.stack(inventory.proxy.stack):
        changes += proxy_changes(inventory, cluster)
    return changes


def outdated_labels(stack: str, host: HostEntry, cluster: Cluster) -> list[LabelChange]:
    """What may go once the stack is pinned by the labels of today: before that, the tasks that
    run would go with it.
    """
    return [
        LabelChange(node.name, {}, (OLD_DATA_LABEL,), node_id=node.id)
        for node in cluster.nodes
        if node.name == host.node and node.labels.get(OLD_DATA_LABEL) == stack
    ]


def undo(changes: Sequence[LabelChange], before: Cluster, now: Cluster) -> list[LabelChange]:
    """The labels that bring back what `changes` has changed, as far as it has."""
    back = []
    for change in changes:
        was, present = before.node(change.node), now.node(change.node)
        if was is None or present is None:
            continue
        keys = [
            key
            for key in (*change.add, *change.remove)
            if was.labels.get(key) != present.labels.get(key)
        ]
        add = {key: was.labels[key] for key in keys if key in was.labels}
        if keys:
            gone = tuple(k for k in keys if k not in add)
            back.append(LabelChange(change.node, add, gone, node_id=present.id))
    return back


def _chosen(
    inventory: Inventory, labelled: Sequence[str], with_volume: Sequence[HostEntry]
) -> HostEntry:
    databases = inventory.with_role("db")
    named = next((h for h in databases if h.name == inventory.postgres.data_host), None)
    if named:
        return named
    if len(labelled) == 1:
        pinned = inventory.host_of_node(labelled[0])
        if pinned is None or pinned.role != "db":
            raise SwarmkeepError(
                f"{inventory.postgres.stack}: its data is on node {labelled[0]!r}, "
                "which is no host with 'role: db' in hosts.yaml",
                hint="add that host, or name another in db.data_host",
            )
        return pinned
    candidates = with_volume or databases
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(host.name for host in candidates)
    why = "hold its volume" if with_volume else "could hold its data"
    raise SwarmkeepError(
        f"{inventory.postgres.stack}: {len(candidates)} db hosts {why}: {names}",
        hint="say which one in hosts.yaml: db: {data_host: NAME}",
    )
