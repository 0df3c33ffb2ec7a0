"""Taking the work off a node, and giving it back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config.inventory import Inventory
from fabfile.deploy.finish_script import Options
from fabfile.deploy.locked_change import Record, locked
from fabfile.deploy.observation import observe, observe_any, observe_command
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.remote_command import Command, succeeded
from fabfile.swarm import proxy_health
from fabfile.swarm.docker_commands import holds_data, set_availability
from fabfile.swarm.state import Cluster, Node
from fabfile.swarm.state_reading import parse_sections
from fabfile.swarm.status import summarise

POLL_SECONDS = 0.5
# https://docs.docker.com/engine/swarm/how-swarm-mode-works/swarm-task-states/
_WORKING = frozenset(
    {"new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting"}
    | {"running"}
)


@dataclass
class Move:
    """One drain or activation, told a manager. `timeout` is in seconds.

    From the change to the end of the waiting it holds the deploy lock: a deploy beside it
    would judge services that move.
    """

    fleet: Fleet
    timeout: float
    options: Options
    say: Callable[[str], None]

    @property
    def _inventory(self) -> Inventory:
        return self.fleet.inventory

    @cached_property
    def _first_look(self) -> tuple[Host, Cluster]:
        return observe_any(self.fleet)

    @property
    def _manager(self) -> Host:
        return self._first_look[0]

    def drain(self, name: str, *, force: bool) -> None:
        """Drain a node and wait until its tasks have left it.

        Raises SwarmkeepError if nothing else can run the database or the proxy (unless `force`),
        or if tasks are still there after the time-out.
        """
        with self._set(name, "drain", keep_database=not force) as node:
            if self.fleet.dry:
                return
            if node.state != "ready":
                self.say(f"{node.name}: is {node.state}, so nobody knows what still runs there")
                return
            self._wait(lambda: self._still_there(node))
        self.say(f"{node.name}: no task is left on it")
        for service in summarise(self._inventory, observe(self._manager))["services"]:
            if not service["converged"]:
                self.say(
                    f"{service['name']}: {service['running']}/{service['wanted']} running "
                    f"({service['doing']})"
                )

    def activate(self, name: str) -> None:
        """Let a node work and wait until the stacks have all their tasks.

        Raises SwarmkeepError if they do not within the time-out.
        """
        with self._set(name, "active"):
            if self.fleet.dry:
                return
            self._wait(self._still_missing)
        rows = summarise(self._inventory, observe(self._manager))["services"]
        for service in rows:
            self.say(f"{service['name']}: {service['running']}/{service['wanted']} running")

    @contextmanager
    def _set(self, name: str, availability: str, *, keep_database: bool = False) -> Iterator[Node]:
        """The node, set to that; if it was not so already, under the lock and on record."""
        word = "drained" if availability == "drain" else availability

        def find(cluster: Cluster) -> Node:
            node = find_node(self._inventory, cluster, name)
            if keep_database:
                refuse_without_database(self._inventory, cluster, node)
                refuse_without_proxy(self._inventory, cluster, node)
            return node

        node = find(self._first_look[1])
        if node.availability == availability:
            self.say(f"{node.name}: is {word} already")
            yield node
            return
        script = set_availability(node.id, availability)
        if self.fleet.dry:
            self._manager.run(Command(script))
            yield node
            return
        record = Record()
        also = observe_command(self._inventory).script
        with locked(self._manager, self.options, record, say=self.say, also=also) as lease:
            # Somebody else may have had the lock until now.
            node = find(parse_sections(self._manager.name, lease.output))
            succeeded(lease.change(script), f"setting {node.name} to {availability}")
            record.changes.append(f"node {node.name}: {word}")
            self.say(f"{node.name}: is {word} now")
            yield node

    def _still_there(self, node: Node) -> str:
        script = f"docker node ps --format '{{{{.CurrentState}}}} {{{{.Name}}}}' {node.id}"
        said = self._manager.check(
            Command(script, changes=False), f"asking for {node.name}'s tasks"
        )
        names = tasks_left(said.stdout)
        return f"still on {node.name}: {', '.join(names)}" if names else ""

    def _still_missing(self) -> str:
        rows = summarise(self._inventory, observe(self._manager))["services"]
        late = [r for r in rows if not r["converged"]]
        return ", ".join(f"{r['name']} has {r['running']}/{r['wanted']} running" for r in late)

    def _wait(self, problem: Callable[[], str]) -> None:
        end = time.monotonic() + self.timeout
        shown = ""
        while text := problem():
            if time.monotonic() > end:
                raise SwarmkeepError(
                    f"after {self.timeout:.0f} s {text}",
                    hint="Swarm goes on with it; see inv status, or wait longer with --timeout",
                )
            if text != shown:
                self.say(text)
                shown = text
            time.sleep(POLL_SECONDS)


def find_node(inventory: Inventory, cluster: Cluster, name: str) -> Node:
    """The node of a host's name, or of this name itself. ConfigError if there is none."""
    entry = next((host for host in inventory.hosts if host.name == name), None)
    node = cluster.node(entry.node if entry else name)
    if node:
        return node
    known = ", ".join(sorted(n.name for n in cluster.nodes))
    raise ConfigError(f"{name!r}: neither a host nor a node", hint=f"the nodes are: {known}")


def refuse_without_database(inventory: Inventory, cluster: Cluster, node: Node) -> None:
    """Raise SwarmkeepError if the database could run nowhere without this node."""
    able = _able(inventory, cluster)
    if node in able and able == [node]:
        pinned = holds_data(node.labels, inventory.postgres.stack)
        why = "holds the data" if pinned else "is the only one with role db"
        raise SwarmkeepError(
            f"{node.name}: {why}: without it PostgreSQL runs nowhere, and NocoDB not either",
            hint="to take both down on purpose (maintenance): "
            f"inv swarm.drain {node.name} --force; afterwards: inv swarm.activate {node.name}",
        )


def refuse_without_proxy(inventory: Inventory, cluster: Cluster, node: Node) -> None:
    """Raise SwarmkeepError if this node has the only proxy that works: no client would come in."""
    hosts = proxy_health.working(inventory, cluster)
    if [host.node for host in hosts] == [node.name]:
        raise SwarmkeepError(
            f"{node.name}: has the only proxy: without it {inventory.app.domain} answers nobody",
            hint="name another host in proxy.hosts, and inv deploy-proxy; or to do it on purpose: "
            f"inv swarm.drain {node.name} --force; afterwards: inv swarm.activate {node.name}",
        )


def _able(inventory: Inventory, cluster: Cluster) -> Sequence[Node]:
    """The working nodes that may run the database, as the compose file's placement says."""
    stack = inventory.postgres.stack
    pinned = any(holds_data(n.labels, stack) for n in cluster.nodes)
    return [
        n
        for n in cluster.nodes
        if n.state == "ready"
        and n.availability == "active"
        and n.labels.get(inventory.role_label) == "db"
        and (not pinned or holds_data(n.labels, stack))
    ]


def tasks_left(text: str) -> list[str]:
    """Given lines "Running 3 minutes ago NAME" of `docker node ps`, return who still works."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return sorted(words[-1] for words in lines if words[0].lower() in _WORKING)
