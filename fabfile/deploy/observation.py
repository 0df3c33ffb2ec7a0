"""What managers and hosts say before a deploy: the Swarm, images, volumes, the database's names."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.config.inventory import Inventory
from fabfile.deploy import preflight_data
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import Fleet, Host, Outcome
from fabfile.ssh.remote_command import Command
from fabfile.swarm import data_volume, postgres
from fabfile.swarm.data_volume import DataFolder
from fabfile.swarm.postgres import Names
from fabfile.swarm.state import Cluster
from fabfile.swarm.state_reading import look_command, parse_cluster, refreshed, watch_command

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
    """What the running PostgreSQL has, where one of its names would change, or an app beside NocoDB
    needs databases of its own."""

    @property
    def node_ids(self) -> dict[str, str]:
        """Node name -> id, as the hosts say themselves."""
        return {
            outcome.entry.node: outcome.value.node_id
            for outcomes in self.surveys.values()
            for outcome in outcomes
            if outcome.value and outcome.value.node_id
        }


def look(fleet: Fleet, stacks: Sequence[Wanted]) -> Look:
    """Ask a manager and the stacks' hosts, all at the same time: one round trip each."""
    inventory = fleet.inventory
    first = fleet.manager or inventory.managers()[0]
    hosts_of = {stack.role: inventory.with_role(stack.role) for stack in stacks}
    hosts = [host for role in hosts_of for host in hosts_of[role]]

    def ask(host: Host) -> tuple[Outcome[Cluster] | None, dict[str, Survey]]:
        ours = [stack for stack in stacks if host.entry in hosts_of[stack.role]]
        return (
            _asked(host) if host.entry == first else None,
            {stack.role: survey(host, stack, inventory) for stack in ours},
        )

    outcomes = fleet.fan_out(list(dict.fromkeys([first, *hosts])), ask)
    surveys = {
        role: tuple(
            Outcome(o.entry, o.value[1][role] if o.value else None, o.error)
            for o in outcomes
            if o.entry in hosts_of[role]
        )
        for role in hosts_of
    }
    tried = outcomes[0].value[0] if outcomes[0].value else None
    manager, cluster = _answering(fleet, tried or Outcome(first, error=outcomes[0].error))
    seen = Look(manager, cluster, surveys)
    seen = replace(seen, cluster=cluster.identified(seen.node_ids))
    cluster = seen.cluster
    database = next((stack for stack in stacks if stack.role == "db"), None)
    if database and preflight_data.renamed(inventory, database, cluster):
        return _with_names(fleet, seen, database)
    other = next((stack for stack in stacks if inventory.other_app(stack.role)), None)
    return _with_names(fleet, seen, other) if other else seen


def _with_names(fleet: Fleet, seen: Look, wanted: Wanted) -> Look:
    """With what the running PostgreSQL has. One that restarts, as another deploy has it do, is
    waited for; what does not run, or is just being stopped, is looked at once more.
    """
    end = time.monotonic() + COMING_UP_SECONDS
    while (names := postgres.names(fleet, seen.cluster, [wanted.password])) is None:
        late = time.monotonic() > end
        cluster = observe(seen.manager).identified(seen.node_ids)
        # As it was, and nothing on its way: another question would bring no other answer.
        still = cluster.tasks == seen.cluster.tasks and not coming_up(fleet.inventory, cluster)
        if late or still:
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


def observe_command(inventory: Inventory) -> Command:
    """The command that reads the whole cluster."""
    return look_command(inventory.network, inventory.every_stack)


def observe(manager: Host, seen: Cluster | None = None) -> Cluster:
    """Read the whole cluster from a manager.

    Given what was `seen` of it, only services and tasks, and the rest as it was: for looking
    again and again.
    """
    if seen is not None:
        now = refreshed(seen, manager.run(watch_command(manager.inventory.every_stack)))
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


def watch(manager: Host, seen: Cluster | None = None) -> Cluster:
    """Observe while waiting: a manager that cannot tell is gone, its change has not failed."""
    try:
        return observe(manager, seen)
    except UnreachableError:
        raise
    except SwarmkeepError as error:
        raise UnreachableError(
            error.message,
            hint=f"{error.hint}; then run the same again (a living Swarm goes on with the change)",
        ) from error
