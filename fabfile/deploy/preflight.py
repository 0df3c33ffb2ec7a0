"""What is asked and checked before a deploy changes anything."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.deploy import preflight_data
from fabfile.deploy.preflight_data import Found
from fabfile.deploy.preflight_project import check_project
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import Command, Fleet, Host, Outcome, values
from fabfile.swarm import data_volume, placement
from fabfile.swarm import postgres as server
from fabfile.swarm.data_volume import DataFolder
from fabfile.swarm.docker_commands import cluster_label, holds_data
from fabfile.swarm.placement import Labels
from fabfile.swarm.postgres import Names
from fabfile.swarm.state import Cluster, Node, look_command, parse_cluster, refreshed, watch_command

COMING_UP_SECONDS = 60.0
"""How long a PostgreSQL that is starting is waited for."""
POLL_SECONDS = 0.5
_COMING = frozenset({"assigned", "accepted", "preparing", "ready", "starting"})
PULL_TIMEOUT = 1800.0
"""Seconds of silence allowed to `docker pull`, which prints nothing without a terminal."""


@dataclass(frozen=True)
class Survey:
    """What one host told about itself: which images and volumes it has."""

    has_image: bool
    has_volume: bool
    folders: tuple[DataFolder, ...] = ()
    """The PostgreSQL clusters in the volume that the database's stack wants."""
    node_id: str = ""
    """Which node of the Swarm it says it is; "" for none."""


@dataclass(frozen=True)
class Look:
    """What the hosts said before a deploy: a manager about the Swarm, each host about itself."""

    manager: Host
    cluster: Cluster
    surveys: Mapping[str, tuple[Outcome[Survey], ...]]
    """By role."""
    names: Names | None = None
    """What the running PostgreSQL has, where one of its names would change."""

    @property
    def node_ids(self) -> dict[str, str]:
        """Node name -> id, as the hosts say themselves."""
        return {
            outcome.entry.node: outcome.value.node_id
            for outcomes in self.surveys.values()
            for outcome in outcomes
            if outcome.value and outcome.value.node_id
        }


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


def look(fleet: Fleet, stacks: Sequence[Wanted]) -> Look:
    """Ask a manager and the stacks' hosts, all at the same time: one round trip each."""
    inventory = fleet.inventory
    first = fleet.manager or inventory.managers()[0]
    by_role = {stack.role: stack for stack in stacks}
    hosts = [host for role in by_role for host in inventory.with_role(role)]

    def ask(host: Host) -> tuple[Outcome[Cluster] | None, Survey | None]:
        stack = by_role.get(host.entry.role)
        return (
            _asked(host) if host.entry == first else None,
            survey(host, stack, inventory) if stack else None,
        )

    outcomes = fleet.fan_out(list(dict.fromkeys([first, *hosts])), ask)
    surveys = {
        role: tuple(
            Outcome(o.entry, o.value[1] if o.value else None, o.error)
            for o in outcomes
            if o.entry.role == role
        )
        for role in by_role
    }
    tried = outcomes[0].value[0] if outcomes[0].value else None
    manager, cluster = _answering(fleet, tried or Outcome(first, error=outcomes[0].error))
    seen = Look(manager, cluster, surveys)
    seen = replace(seen, cluster=cluster.identified(seen.node_ids))
    cluster = seen.cluster
    database = by_role.get("db")
    if database and preflight_data.renamed(inventory, database, cluster):
        return _with_names(fleet, seen, database)
    return seen


def _with_names(fleet: Fleet, seen: Look, database: Wanted) -> Look:
    """With what the running PostgreSQL has. One that restarts, as another deploy has it do, is
    waited for; what does not run, or is just being stopped, is looked at once more.
    """
    end = time.monotonic() + COMING_UP_SECONDS
    while (names := server.names(fleet, seen.cluster, [database.password])) is None:
        late = time.monotonic() > end
        cluster = observe(seen.manager).identified(seen.node_ids)
        # As it was, and nothing on its way: another question would bring no other answer.
        if late or (cluster == seen.cluster and not coming_up(fleet.inventory, cluster)):
            break
        seen = replace(seen, cluster=cluster)
        time.sleep(POLL_SECONDS)
    return replace(seen, names=names)


def coming_up(inventory: Inventory, cluster: Cluster) -> bool:
    """Whether PostgreSQL does not run, and is about to."""
    service = cluster.service(inventory.postgres.service)
    tasks = cluster.tasks_of(service) if service else ()
    states = {task.state for task in tasks if task.desired in ("running", "ready")}
    return "running" not in states and not states.isdisjoint(_COMING)


def observe_any(fleet: Fleet) -> tuple[Host, Cluster]:
    """The first manager that answers for the Swarm, and the cluster. Raises as `observe`."""
    first = fleet.manager or fleet.inventory.managers()[0]
    return _answering(fleet, fleet.fan_out([first], observe)[0])


def _answering(fleet: Fleet, first: Outcome[Cluster]) -> tuple[Host, Cluster]:
    """Given what the first manager said, return it, or else the next that answers.

    One that can be reached may still have no engine that runs, or be a worker by now.
    """
    tried = [first]
    others = (entry for entry in fleet.inventory.managers() if entry != first.entry)
    while tried[-1].value is None:
        entry = next(others, None)
        if entry is None:
            raise _nobody_answers(tried)
        tried += fleet.fan_out([entry], observe)
    fleet.manager = tried[-1].entry
    return fleet.host(fleet.manager), tried[-1].value


def _nobody_answers(tried: Sequence[Outcome[Cluster]]) -> SwarmkeepError:
    errors = [outcome.error for outcome in tried if outcome.error]
    if len(errors) == 1:
        return errors[0]
    least = min(errors, key=lambda error: error.exit_code)
    return type(least)(
        "no manager answers for the Swarm",
        hint=least.hint,
        details=tuple(error.message for error in errors),
    )


def _asked(host: Host) -> Outcome[Cluster]:
    """What `observe` brings, as data: the same host may have told about itself all the same."""
    try:
        return Outcome(host.entry, value=observe(host))
    except SwarmkeepError as error:
        return Outcome(host.entry, error=error)


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
    _check_ready(wanted, cluster, inventory.with_role("app"))
    if not allowed.together:
        preflight_data.check_app(inventory, wanted, cluster, leave_data=allowed.leave_data)
    if not allowed.database_first:
        check_database_runs(inventory, cluster)
    return Labels(tuple(changes))


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


def _check_ready(wanted: Wanted, cluster: Cluster, hosts: Sequence[HostEntry]) -> None:
    if not hosts:
        raise SwarmkeepError(
            f"{wanted.name}: no host has 'role: {wanted.role}'",
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


def observe_command(inventory: Inventory) -> Command:
    """The command that reads the whole cluster."""
    return look_command(inventory.network, [inventory.postgres.stack, inventory.app.stack])


def observe(manager: Host, seen: Cluster | None = None) -> Cluster:
    """Read the whole cluster from a manager.

    Given what was `seen` of it, only services and tasks, and the rest as it was: for looking
    again and again, since everything costs the manager half a second of work.
    """
    if seen is not None:
        postgres, app = manager.inventory.postgres, manager.inventory.app
        now = refreshed(seen, manager.run(watch_command([postgres.stack, app.stack])))
        # A manager that cannot tell is asked everything: that says why.
        if now is not None:
            return now
    return parse_cluster(manager.run(observe_command(manager.inventory)))


def survey(host: Host, wanted: Wanted, inventory: Inventory) -> Survey:
    """Ask a host which of the stack's image and volumes it has, and what is in the database's."""
    volumes = " ".join(
        shlex.quote(str((entry or {}).get("name") or f"{wanted.name}_{key}"))
        for key, entry in (wanted.compose.get("volumes") or {}).items()
    )
    image = shlex.quote(wanted.image)
    script = (
        f"i=$(docker image inspect {image} >/dev/null 2>&1 && echo image)\n"
        f"v=$(docker volume inspect {volumes or '-'} >/dev/null 2>&1 && echo volume)\n"
        "n=$(docker info --format '{{.Swarm.NodeID}}' 2>/dev/null)\n"
        'echo "$i $v"\necho "node $n"\n'
        # Neither: because they are not there, or because Docker does not answer?
        '[ -n "$i$v" ] || docker info >/dev/null || exit 1\n'
    )
    if wanted.role == "db":
        place = data_volume.place_of(preflight_data.wanted_spec(inventory, wanted))
        script += data_volume.survey_script(place.source) if place.source else ""
    result = host.check(
        Command(script, changes=False),
        "asking Docker",
        hint="is Docker running there? try: systemctl status docker",
    )
    first, *rest = result.stdout.splitlines() or [""]
    words = first.split()
    own = next((line.partition(" ")[2] for line in rest if line.startswith("node ")), "")
    return Survey("image" in words, "volume" in words, data_volume.parse_survey(rest), own.strip())


def pull(host: Host, image: str) -> None:
    """Pull an image on a host. Raises SwarmkeepError if it cannot be had."""
    host.check(
        Command(f"docker pull --quiet {shlex.quote(image)}"),
        f"pulling the image {image}",
        hint="check its name and tag under 'images' in hosts.yaml, and the host's registry "
        "access; for a private image: inv registry.login",
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
    running = service and any(
        task.state == task.desired == "running" for task in cluster.tasks_of(service)
    )
    if not running:
        raise SwarmkeepError(
            f"{inventory.postgres.service}: is not running, and NocoDB exits without its database",
            hint="deploy it first: inv deploy-db (inv status shows what is there)",
        )
