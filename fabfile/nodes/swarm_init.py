"""From hosts that have only sshd to the Swarm of hosts.yaml. Repeats nothing that is done."""

from __future__ import annotations

import contextlib
import json
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Inventory
from fabfile.deploy.finish_script import Options
from fabfile.deploy.labels_and_network import change_script
from fabfile.deploy.locked_change import Record, on_record
from fabfile.deploy.observation import observe_any
from fabfile.deploy.preflight import check_network
from fabfile.nodes import host_facts
from fabfile.nodes.host_facts import HostFacts
from fabfile.nodes.swarm_init_commands import (
    CHANGED,
    ENGINE_SECONDS,
    init_swarm,
    install_engine,
    join_swarm,
    start_engine,
)
from fabfile.nodes.swarm_init_plan import Join, Plan, plan
from fabfile.ssh.fleet import Fleet, Host, values
from fabfile.ssh.remote_command import Command
from fabfile.swarm import deploy_lock, placement

INSTALL_TIMEOUT = 900.0
"""Seconds of silence allowed to apt-get, which prints nothing when its output is discarded."""
JOIN_TIMEOUT = 60.0
"""Seconds: the engine itself gives up after 20."""
READY_SECONDS = 60.0
POLL_SECONDS = 0.5
PORTS = "2377/tcp, 7946/tcp, 7946/udp and 4789/udp"

Say = Callable[[str], None]


@dataclass
class Bootstrap:
    """One run of swarm.init, on record as soon as it may change something."""

    fleet: Fleet
    options: Options
    say: Say
    _record: Record = field(default_factory=Record)

    @property
    def inventory(self) -> Inventory:
        """The inventory all this is for."""
        return self.fleet.inventory

    def run(self) -> list[str]:
        """Do what is missing, and return a line per change; none if all was right already.

        Raises SwarmkeepError, before any change where it can be known by then.
        """
        steps = plan(self.inventory, self._gather())
        with on_record(self.fleet, self.options, self._record):
            self._carry_out(steps)
        return self._record.changes

    def _carry_out(self, steps: Plan) -> None:
        if steps.install or steps.start:
            self._engines(steps)
            if self.fleet.dry:
                self.say("the other steps depend on what these engines say")
                return
            # An engine that was stopped may turn out to be in some Swarm, and in these minutes
            # somebody may have joined another host.
            steps = plan(self.inventory, self._gather())
        for note in steps.notes:
            self.say(note)
        self._swarm(steps)
        if self.fleet.dry and steps.init:
            self.say("labels and network depend on the Swarm that is to be made")
            return
        self._prepare()

    def _gather(self) -> dict[str, HostFacts]:
        entries = self.inventory.hosts
        command = host_facts.gather()
        outcomes = self.fleet.fan_out(
            entries, lambda host: host_facts.parse(host.check(command, "looking at the machine"))
        )
        return {e.name: f for e, f in zip(entries, values(outcomes), strict=True)}

    def _engines(self, steps: Plan) -> None:
        def make_run(host: Host) -> None:
            if host.entry in steps.install:
                if not self.fleet.dry:
                    self.say(f"{host.name}: installing Docker (docker.io)")
                host.check(
                    install_engine(),
                    "installing docker.io",
                    hint=f"see on {host.name}: apt-get install docker.io",
                    timeout=INSTALL_TIMEOUT,
                )
                self._done(f"{host.name}: Docker installed")
            said = host.check(
                start_engine(),
                "starting Docker",
                hint=f"see on {host.name}: journalctl -u docker, or /var/log/docker.log",
                timeout=ENGINE_SECONDS + 60,
            )
            if "started" in said.stdout.split():
                self._done(f"{host.name}: Docker started")

        values(self.fleet.fan_out([*steps.install, *steps.start], make_run))

    def _swarm(self, steps: Plan) -> None:
        if steps.init:
            self.fleet.host(steps.init.entry).check(
                init_swarm(steps.init.address),
                "docker swarm init",
                hint=f"is hosts.{steps.init.entry.name}.advertise_addr right?",
            )
            self._done(f"{steps.init.entry.name}: began the Swarm at {steps.init.address}")
        if steps.promote:
            self._promote(steps)
        node_ids = self._join_all(steps) if steps.joins else {}
        if (node_ids or steps.doubles) and not self.fleet.dry:
            self._settle(self._manager(steps), steps.members | node_ids)

    def _manager(self, steps: Plan) -> Host:
        if steps.init:
            return self.fleet.host(steps.init.entry)
        assert steps.manager is not None
        return self.fleet.host(steps.manager)

    def _promote(self, steps: Plan) -> None:
        names = " ".join(shlex.quote(entry.node) for entry in steps.promote)
        self._manager(steps).check(
            Command(f"docker node promote {names} >/dev/null"), "docker node promote"
        )
        for entry in steps.promote:
            self._done(f"{entry.name}: promoted to manager")

    def _join_all(self, steps: Plan) -> dict[str, str]:
        """Join them all at once; returns node name -> id."""
        manager = self._manager(steps)
        address, tokens = ("", {}) if self.fleet.dry else _ask_tokens(manager)
        joins = {join.entry.name: join for join in steps.joins}
        node_ids: dict[str, str] = {}
        # Each new manager changes the quorum: one after the other. Workers come meanwhile.
        one_manager = threading.Lock()

        def join(host: Host) -> None:
            it = joins[host.name]
            body = _body(it, address, tokens)
            with one_manager if host.entry.swarm == "manager" else contextlib.nullcontext():
                node_ids[host.entry.node] = _join(host, it, body, address)
            self._done(f"{host.name}: joined as {host.entry.swarm}")

        values(self.fleet.fan_out([join.entry for join in steps.joins], join))
        return node_ids

    def _settle(self, manager: Host, node_ids: dict[str, str]) -> None:
        """Wait until the manager has heard of every new node, and remove their former selves.

        `node_ids` is node name -> id. A machine that left and joined again is listed twice
        under one name, and Docker then refuses every command that uses the name.
        Raises UnreachableError after a minute.
        """
        end = time.monotonic() + READY_SECONDS
        while True:
            rows = _list_nodes(manager)
            late = [name for name, node_id in node_ids.items() if rows.get(node_id) != (name, True)]
            former = [i for i, (name, _) in rows.items() if node_ids.get(name, i) != i]
            if not late and not any(rows[node_id][1] for node_id in former):
                break
            if time.monotonic() > end:
                raise UnreachableError(
                    f"{', '.join(late or former)}: joined, but not Ready after "
                    f"{READY_SECONDS:.0f} s",
                    hint=f"the nodes need {PORTS} between each other; see inv status",
                )
            time.sleep(POLL_SECONDS)
        if former:
            ids = " ".join(former)
            script = f"docker node demote {ids} >/dev/null 2>&1; docker node rm --force {ids}"
            manager.check(Command(f"{script} >/dev/null"), "removing former nodes")
            for node_id in former:
                self._done(f"node {rows[node_id][0]}: its former self {node_id} removed")

    def _prepare(self) -> None:
        manager, cluster = observe_any(self.fleet)
        if not self.fleet.dry:
            placement.check_nodes(self.inventory, cluster)
        check_network(self.inventory.network, cluster)
        labels = placement.role_changes(self.inventory, cluster)
        script = change_script(labels, "" if cluster.network else self.inventory.network)
        if script.steps and self.fleet.dry:
            manager.run(Command(script.text))
        elif script.steps:
            # In a Swarm that is there already, labels move services.
            why, wait = self.options.command, self.options.wait
            with deploy_lock.held(
                manager, self.options.origin, why, wait=wait, say=self.say
            ) as lease:
                script.check(lease.change(script.text))
        for line in script.done:
            self._done(line)

    def _done(self, line: str) -> None:
        self._record.changes.append(line)
        self.say(f"would be: {line}" if self.fleet.dry else line)


def _ask_tokens(manager: Host) -> tuple[str, dict[str, Secret]]:
    """The manager's address with port, and the join token of each kind of node."""
    said = manager.check(
        Command(
            "docker swarm join-token -q manager && docker swarm join-token -q worker && "
            "docker node inspect self --format '{{.ManagerStatus.Addr}}'",
            changes=False,
        ),
        "asking for the join tokens",
    ).stdout.split()
    if len(said) != 3:
        raise SwarmkeepError(f"{manager.name}: gave no join tokens", hint="run it again")
    return said[2], {"manager": Secret(said[0]), "worker": Secret(said[1])}


def _body(join: Join, remote: str, tokens: dict[str, Secret]) -> Secret:
    token = tokens.get(join.entry.swarm)
    request = {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": join.address,
        "RemoteAddrs": [remote],
        "JoinToken": token.reveal() if token else "",
    }
    return Secret(json.dumps(request))


def _join(host: Host, join: Join, body: Secret, remote: str) -> str:
    """Join one host and return its node's id. Raises SwarmkeepError with the engine's reason."""
    result = host.run(join_swarm(body, seen=join.seen), timeout=JOIN_TIMEOUT)
    if result.exit_code == 0:
        return result.stdout.strip()
    if result.exit_code == CHANGED:
        state = result.stdout.partition(":")[0]
        raise SwarmkeepError(
            f"{host.name}: somebody else has joined it to a Swarm meanwhile, or is doing so (state "
            f"{state}); left as it is",
            hint="when no other swarm.init runs, run it again: it checks again",
        )
    said = result.stderr.strip() or "no answer from its engine"
    reason = said.splitlines()[-1]
    # What is not the engine's own answer is shown as it is.
    with contextlib.suppress(ValueError, KeyError, TypeError):
        reason = str(json.loads(reason)["message"])
    token = json.loads(body.reveal())["JoinToken"]
    if "Timeout was reached" in reason:
        reason = f"no answer from the manager at {remote} within 20 s"
    raise SwarmkeepError(
        f"{host.name}: could not join the Swarm: {reason.replace(token or ' ', '[redacted] ')}",
        hint=f"the nodes need {PORTS} between each other; is {remote} the manager's right "
        "address (advertise_addr)? Nothing was left half-done there: run it again",
    )


def _list_nodes(manager: Host) -> dict[str, tuple[str, bool]]:
    """Node id -> its name, and whether it is ready."""
    said = manager.check(
        Command("docker node ls --format '{{.ID}} {{.Hostname}} {{.Status}}'", changes=False),
        "docker node ls",
    )
    rows = [line.split() for line in said.stdout.splitlines()]
    return {row[0]: (row[1], row[2] == "Ready") for row in rows}
