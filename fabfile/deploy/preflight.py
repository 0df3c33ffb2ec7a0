"""What is asked and checked before a deploy changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.deploy import app_database, preflight_data
from fabfile.deploy.observation import Look, Survey
from fabfile.deploy.preflight_data import Found
from fabfile.deploy.preflight_project import check_project
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import Outcome, values
from fabfile.swarm import data_volume, placement
from fabfile.swarm.docker_commands import cluster_label, holds_data
from fabfile.swarm.placement import Labels
from fabfile.swarm.state import Cluster, Node, Service


@dataclass(frozen=True)
class Allowed:
    """What a deploy may do beyond the usual (each a flag), and what goes with it.

    `database_first`: the database is deployed before, so it need not run yet. `together`: both
    stacks are deployed in one go.
    """

    move_data_host: bool = False
    leave_data: bool = False
    take_over: bool = False
    database_first: bool = False
    together: bool = False


def check(
    inventory: Inventory,
    wanted: Wanted,
    seen: Look,
    allowed: Allowed,
) -> Labels:
    """Check everything that can be known beforehand; return the labels to change.

    Raises SwarmkeepError.
    """
    cluster, surveys = seen.cluster, seen.surveys[wanted.role]
    check_project(inventory, wanted, cluster, take_over=allowed.take_over)
    placement.check_nodes(inventory, cluster)
    _check_identities(seen)
    check_network(inventory.network, cluster)
    preflight_data.check_networks(inventory, wanted, cluster, together=allowed.together)
    changes = placement.role_changes(inventory, cluster)
    if wanted.role == "db":
        host = _data_host(inventory, wanted, cluster, surveys, move=allowed.move_data_host)
        _check_ready(wanted, cluster, [host])
        known = _check_data(inventory, wanted, seen, host, allowed)
        changes += placement.data_changes(wanted.name, host, cluster, wanted.project, known)
        return Labels(tuple(changes), tuple(placement.outdated_labels(wanted.name, host, cluster)))
    if wanted.role == "backup":
        _check_ready(wanted, cluster, inventory.with_role("db"))
        check_database_runs(inventory, cluster)
        return Labels(tuple(changes))
    if wanted.role == "proxy":
        _check_ready(wanted, cluster, inventory.with_role("proxy"))
        check_ports(inventory, cluster)
        return Labels((*changes, *placement.proxy_changes(inventory, cluster)))
    _check_app(inventory, wanted, seen, allowed)
    return Labels(tuple(changes))


def _check_app(inventory: Inventory, wanted: Wanted, seen: Look, allowed: Allowed) -> None:
    """What is checked before NocoDB or another app is deployed."""
    cluster, other = seen.cluster, inventory.other_app(wanted.role)
    _check_ready(wanted, cluster, inventory.with_role("app"), role="app")
    if not allowed.together and (other is None or other.domain):
        check_proxy_runs(inventory, cluster, wanted.name)
    if other:
        preflight_data.check_other_app(
            inventory,
            wanted,
            cluster,
            app_database.lacking(other, seen.names) if seen.names else (),
            leave_data=allowed.leave_data,
        )
    elif not allowed.together:
        preflight_data.check_app(inventory, wanted, cluster, leave_data=allowed.leave_data)
    if not allowed.database_first:
        check_database_runs(inventory, cluster, other.name if other else "NocoDB")


def _check_identities(seen: Look) -> None:
    """Raise ConfigError if a machine is another node than hosts.yaml says: its name or its address
    has changed, or the address is another machine's now.
    """
    by_id = {node.id: node for node in (*seen.cluster.nodes, *seen.cluster.former)}
    for outcome in (one for outcomes in seen.surveys.values() for one in outcomes):
        own, entry = outcome.value.node_id if outcome.value else "", outcome.entry
        node = by_id.get(own)
        if not own or (node and node.name == entry.node):
            continue
        is_node = f"node {node.name!r}" if node else f"node {own} of another Swarm"
        raise ConfigError(
            f"hosts.{entry.name}: the machine at {entry.address} is {is_node}, hosts.yaml says "
            f"{entry.node!r}",
            hint=f"correct hosts.{entry.name}.address, or set hosts.{entry.name}.node to what "
            "docker node ls calls that machine",
        )


def _check_data(
    inventory: Inventory, wanted: Wanted, seen: Look, host: HostEntry, allowed: Allowed
) -> str:
    """The identifier of the cluster on the host that PostgreSQL is to run on, "" for none."""
    survey = next(s.value for s in seen.surveys["db"] if s.entry == host)
    node = seen.cluster.node(host.node)
    found = Found(
        survey.folders if survey else (),
        _recorded(seen.cluster, node, wanted.name),
        seen.names,
    )
    return preflight_data.check_database(
        inventory,
        wanted,
        seen.cluster,
        found,
        leave_data=allowed.leave_data or allowed.move_data_host,
    )


def _recorded(cluster: Cluster, node: Node | None, stack: str) -> str:
    """The cluster's identifier that is on record for a node, or for its former self."""
    alike = [one for one in cluster.former if node and one.name == node.name]
    for one in ([node] if node else []) + alike:
        if recorded := one.labels.get(cluster_label(stack)):
            return recorded
    return ""


def _data_host(
    inventory: Inventory,
    wanted: Wanted,
    cluster: Cluster,
    surveys: Sequence[Outcome[Survey]],
    *,
    move: bool,
) -> HostEntry:
    with_volume = [s.entry for s in surveys if s.value and s.value.has_volume]
    pinned = [n for n in cluster.nodes if holds_data(n.labels, wanted.name)]
    if not pinned:
        # Nothing says where the data is: every db host must tell whether it has it.
        values(surveys)
    host = placement.data_host(inventory, cluster, with_volume, move=move)
    values([s for s in surveys if s.entry == host])
    return host


def _check_ready(
    wanted: Wanted, cluster: Cluster, hosts: Sequence[HostEntry], role: str = ""
) -> None:
    if not hosts:
        raise SwarmkeepError(
            f"{wanted.name}: no host has 'role: {role or wanted.role}'",
            hint="give one host of hosts.yaml that role",
        )
    nodes = [cluster.node(host.node) for host in hosts]
    if any(n and n.state == "ready" and n.availability == "active" for n in nodes):
        return
    states = ", ".join(f"{n.name} is {n.state}/{n.availability}" for n in nodes if n)
    idle = next((n.name for n in nodes if n and n.state == "ready"), "")
    raise SwarmkeepError(
        f"{wanted.name}: no node can run it: {states}",
        hint=f"let it work again: inv swarm.activate {idle}"
        if idle
        else "bring the node up; inv doctor says what it lacks",
    )


def known_cluster(inventory: Inventory, wanted: Wanted, seen: Look) -> str:
    """The identifier of the database's cluster as it is before a deploy; "" if there is none.

    What the Swarm has on record, else what lies where the running service has its data.
    """
    holders = [n for n in seen.cluster.nodes if holds_data(n.labels, wanted.name)]
    for node in holders:
        if recorded := node.labels.get(cluster_label(wanted.name)):
            return recorded
    live = preflight_data.live_service(inventory, wanted, seen.cluster)
    spec = live.spec if live else preflight_data.wanted_spec(inventory, wanted)
    place = data_volume.place_of(spec)
    names = {node.name for node in holders}
    for survey in seen.surveys["db"]:
        folder = data_volume.at(survey.value.folders, place) if survey.value else None
        if folder and (not names or survey.entry.node in names):
            return folder.system_id
    return ""


def lacking_image(wanted: Wanted, seen: Look) -> list[HostEntry]:
    """The hosts that lack the image. Raises if no host could be asked at all."""
    surveys = seen.surveys[wanted.role]
    if not any(s.value for s in surveys):
        values(surveys)
    return [s.entry for s in surveys if s.value and not s.value.has_image]


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


def check_proxy_runs(inventory: Inventory, cluster: Cluster, stack: str) -> None:
    """Raise SwarmkeepError if an app's stack is to stand behind a proxy that does not run."""
    proxy = inventory.proxy
    running = [
        task
        for service in cluster.stack(proxy.stack)
        for task in cluster.tasks_of(service)
        if task.state == task.desired == "running"
    ]
    if proxy.hosts and (not running or proxy.network not in cluster.networks.values()):
        raise SwarmkeepError(
            f"{proxy.stack}: does not run, and {stack} would have no way in",
            hint="deploy it first: inv deploy-proxy",
        )


def check_ports(inventory: Inventory, cluster: Cluster) -> None:
    """Raise ConfigError if another service of Swarmkeep's has a port that the proxy wants.

    Swarm would find no node for the proxy, and not say for which port.
    """
    proxy = inventory.proxy
    wanted = {proxy.http_port} if proxy.certificates == "none" else set(proxy.ports)
    mine = {host.node for host in inventory.with_role("proxy")}
    nodes = {node.id for node in cluster.nodes if node.name in mine}
    for service in cluster.services:
        for port in (service.spec.get("EndpointSpec") or {}).get("Ports") or ():
            number = port.get("PublishedPort")
            # One that is published on the nodes themselves is in the way only there.
            there = port.get("PublishMode") != "host" or any(
                task.node_id in nodes and task.desired == "running"
                for task in cluster.tasks_of(service)
            )
            if service.stack != proxy.stack and number in wanted and there:
                raise ConfigError(
                    f"{service.name}: publishes port {number}, which the proxy needs",
                    hint=_other_port(inventory, service),
                )


def _other_port(inventory: Inventory, service: Service) -> str:
    if service.stack == inventory.app.stack:
        return (
            "take 'proxy' and app.domain out of hosts.yaml for now, set another app.port, inv "
            "deploy-app; then put them back"
        )
    return "give the service another port, or set proxy.http_port and https_port"


def check_database_runs(inventory: Inventory, cluster: Cluster, app: str = "NocoDB") -> None:
    """Raise SwarmkeepError unless the database service has a running task, for an app's sake."""
    service = cluster.service(inventory.postgres.service)
    running = service and any(
        task.state == task.desired == "running" for task in cluster.tasks_of(service)
    )
    if not running:
        raise SwarmkeepError(
            f"{inventory.postgres.service}: is not running, and {app} cannot work without its "
            "database",
            hint="deploy it first: inv deploy-db (inv status shows what is there)",
        )
