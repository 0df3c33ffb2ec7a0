"""Deploying a stack: look, check everything, then change, then wait for the truth.

Nothing is changed before everything that can be checked has been checked; and a change
that fails is taken back as far as Swarm can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabfile import convergence, placement, swarm
from fabfile.errors import SwarmkeepError, UnreachableError
from fabfile.inventory import HostEntry, Inventory
from fabfile.preflight import (
    Survey,
    check_database_runs,
    check_network,
    observe,
    pull,
    survey,
)
from fabfile.stacks import Wanted
from fabfile.swarm import Cluster
from fabfile.transport import Command, Fleet, Host, Outcome, values
from fabfile.waiting import await_stack, take_back

Say = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What a deploy did. `services` maps full names to created, updated or unchanged."""

    stack: str
    changes: tuple[str, ...]
    services: Mapping[str, str]

    @property
    def changed(self) -> bool:
        """Whether anything was changed."""
        return bool(self.changes) or any(v != "unchanged" for v in self.services.values())


@dataclass
class Deployment:
    """One stack's way into the Swarm."""

    fleet: Fleet
    wanted: Wanted
    say: Say
    keep_failed: bool = False
    move_data_host: bool = False

    @property
    def inventory(self) -> Inventory:
        """The inventory all this is for."""
        return self.fleet.inventory

    def run(self) -> Report:
        """Deploy, wait for convergence, clean up. Raises SwarmkeepError with the failing task."""
        manager, cluster, surveys = self._look()
        labels = self._check(cluster, surveys)
        self._pull_images(surveys)
        changes = prepare_swarm(manager, self.inventory, cluster, labels)
        changes += self._create_secrets(manager, cluster)
        for line in changes:
            self.say(line)
        for step in self._steps(cluster):
            after = self._apply(manager, step, cluster)
        if self.fleet.dry:
            return Report(self.wanted.name, tuple(changes), {})
        self._remove_old_secrets(manager, after)
        return Report(self.wanted.name, tuple(changes), _compare(cluster, after, self.wanted))

    def _look(self) -> tuple[Host, Cluster, list[Outcome[Survey]]]:
        """Ask a manager and the stack's hosts, all at the same time."""
        hosts = self.inventory.with_role(self.wanted.role)
        outcomes = self.fleet.fan_out(_unique([*self.inventory.managers()[:1], *hosts]), self._ask)
        surveys = [
            Outcome(o.entry, o.value[1] if o.value else None, o.error)
            for o in outcomes
            if o.entry in hosts
        ]
        manager = self.fleet.first_manager()
        known = next((o.value[0] for o in outcomes if o.value and o.value[0]), None)
        return manager, known or observe(manager), surveys

    def _ask(self, host: Host) -> tuple[Cluster | None, Survey]:
        cluster = None
        if host.entry == self.inventory.managers()[0]:
            cluster = observe(host)
        if host.entry.role != self.wanted.role:
            return cluster, Survey(False, False)
        return cluster, survey(host, self.wanted)

    def _check(
        self, cluster: Cluster, surveys: Sequence[Outcome[Survey]]
    ) -> list[placement.LabelChange]:
        """Everything that can be known beforehand; returns the labels to change."""
        placement.check_nodes(self.inventory, cluster)
        check_network(self.inventory.network, cluster)
        changes = placement.role_changes(self.inventory, cluster)
        if self.wanted.role == "db":
            host = self._data_host(cluster, surveys)
            self._check_ready(cluster, [host])
            return changes + placement.data_changes(self.wanted.name, host, cluster)
        self._check_ready(cluster, self.inventory.with_role("app"))
        check_database_runs(self.inventory, cluster)
        return changes

    def _data_host(self, cluster: Cluster, surveys: Sequence[Outcome[Survey]]) -> HostEntry:
        with_volume = [s.entry for s in surveys if s.value and s.value.has_volume]
        pinned = [n for n in cluster.nodes if n.labels.get(swarm.DATA_LABEL) == self.wanted.name]
        if not pinned:
            # Nothing says where the data is: every db host must tell whether it has it.
            values(surveys)
        host = placement.data_host(self.inventory, cluster, with_volume, move=self.move_data_host)
        values([s for s in surveys if s.entry == host])
        return host

    def _check_ready(self, cluster: Cluster, hosts: Sequence[HostEntry]) -> None:
        if not hosts:
            raise SwarmkeepError(
                f"{self.wanted.name}: no host has 'role: {self.wanted.role}'",
                hint="give one host of hosts.yaml that role",
            )
        nodes = [cluster.node(host.node) for host in hosts]
        if any(n and n.state == "ready" and n.availability == "active" for n in nodes):
            return
        states = ", ".join(f"{n.name} is {n.state}/{n.availability}" for n in nodes if n)
        raise SwarmkeepError(
            f"{self.wanted.name}: no node can run it: {states}",
            hint="bring the node up, or: docker node update --availability active NODE",
        )

    def _pull_images(self, surveys: Sequence[Outcome[Survey]]) -> None:
        """Fetch the image where it is missing, while everything old still runs."""
        lacking = [s.entry for s in surveys if s.value and not s.value.has_image]
        reachable = [s for s in surveys if s.value]
        if not reachable:
            values(surveys)
        if not lacking:
            return
        self.say(f"pulling {self.wanted.image} on {', '.join(h.name for h in lacking)}")
        outcomes = self.fleet.fan_out(lacking, lambda host: pull(host, self.wanted.image))
        values(outcomes)

    def _create_secrets(self, manager: Host, cluster: Cluster) -> list[str]:
        present = {version.name for version in cluster.secrets}
        created = []
        for secret in self.wanted.secrets:
            if secret.version.name in present:
                continue
            command = Command(swarm.create_secret(secret.version), stdin=secret.content)
            manager.check(command, f"creating the secret {secret.version.name}")
            created.append(f"secret {secret.version.base}: new version {secret.version.name}")
        return created

    def _steps(self, cluster: Cluster) -> list[Wanted]:
        """One step, or two: two first starts of NocoDB on an empty database race each other."""
        replicas = self.inventory.app.replicas
        first = not cluster.stack(self.wanted.name)
        if self.wanted.role == "app" and first and replicas > 1:
            return [self.wanted.with_replicas("nocodb", 1), self.wanted]
        return [self.wanted]

    def _apply(self, manager: Host, wanted: Wanted, before: Cluster) -> Cluster:
        command = Command(
            swarm.deploy_stack(
                wanted.name,
                cli_major=before.cli_major,
                resolve_image=self.inventory.resolve_image,
            ),
            stdin=wanted.stack_input.encode(),
        )
        manager.check(command, f"docker stack deploy {wanted.name}")
        if self.fleet.dry:
            return before
        try:
            return await_stack(
                lambda: observe(manager),
                wanted,
                convergence.baseline(before),
                timeout=self.inventory.deploy_timeout,
                say=self.say,
                logs=lambda task_id: (
                    manager.run(Command(swarm.task_logs(task_id, 15), changes=False)).stdout
                ),
            )
        except UnreachableError:
            # Nothing can be taken back on a manager that is gone; Swarm itself goes on.
            raise
        except SwarmkeepError:
            if not self.keep_failed:
                take_back(manager, wanted, before, observe, self.say)
            self._remove_old_secrets(manager, before)
            raise

    def _remove_old_secrets(self, manager: Host, cluster: Cluster) -> None:
        """Remove the versions no service uses. Docker refuses to remove one in use."""
        bases = {secret.version.base for secret in self.wanted.secrets}
        used = _secrets_in_use(cluster)
        ours = {s.version for s in self.wanted.secrets} | set(cluster.secrets)
        old = sorted(v.name for v in ours if v.base in bases and v.name not in used)
        if old:
            manager.run(Command(swarm.remove_secrets(old)))


def prepare_swarm(
    manager: Host,
    inventory: Inventory,
    cluster: Cluster,
    labels: Sequence[placement.LabelChange],
) -> list[str]:
    """Set labels and make the network, in one round trip; return a line per change."""
    commands = [swarm.label_node(c.node, c.add, c.remove) + " >/dev/null" for c in labels]
    done = [f"node {change.node}: {change}" for change in labels]
    if cluster.network is None:
        commands.append(swarm.create_network(inventory.network) + " >/dev/null")
        done.append(f"network {inventory.network}: created")
    if commands:
        manager.check(Command(" &&\n".join(commands)), "preparing the Swarm")
    return done


def _secrets_in_use(cluster: Cluster) -> set[str]:
    return {
        str(secret["SecretName"])
        for service in cluster.services
        for secret in service.template["ContainerSpec"].get("Secrets") or ()
    }


def _compare(before: Cluster, after: Cluster, wanted: Wanted) -> dict[str, str]:
    outcome = {}
    for service in after.stack(wanted.name):
        old = before.service(service.name)
        if old is None:
            outcome[service.name] = "created"
        else:
            outcome[service.name] = "unchanged" if old.spec == service.spec else "updated"
    return outcome


def _unique(entries: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(entries))
