"""Deploying a stack: look, plan, ask; then, under the lock, change, and wait for the truth.

Nothing is changed before everything that can be checked has been checked; a stack that is
right already is not touched; and a change that fails is taken back as far as Swarm can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.config.inventory import Inventory
from fabfile.deploy import (
    app_database,
    change_steps,
    cluster_identity,
    finish_script,
    proxy_check,
    proxy_stack,
    releases,
)
from fabfile.deploy import plan as plans
from fabfile.deploy.change_script import ChangeScript
from fabfile.deploy.finish_script import Options, Report
from fabfile.deploy.locked_change import give_up
from fabfile.deploy.observation import Look, look, observe, observe_command, pull, watch
from fabfile.deploy.plan import Plan
from fabfile.deploy.planning import make_plan
from fabfile.deploy.preflight import known_cluster, lacking_image
from fabfile.deploy.stacks import Wanted
from fabfile.deploy.take_back import take_back
from fabfile.deploy.waiting import await_stack
from fabfile.ssh.fleet import Fleet, Host, values
from fabfile.ssh.remote_command import Command
from fabfile.swarm import audit_log, convergence, deploy_lock, docker_commands
from fabfile.swarm.deploy_lock import Lease, LockLostError
from fabfile.swarm.state import Cluster, images_of
from fabfile.swarm.state_reading import parse_sections

Say = Callable[[str], None]


@dataclass
class Deployment:
    """One stack's way into the Swarm.

    `show` is given each plan; `confirm` is asked before a plan is carried out and raises
    to refuse it; `verify` looks at the converged stack and raises if it does not work.
    """

    fleet: Fleet
    wanted: Wanted
    options: Options
    say: Say
    show: Callable[[Plan], None]
    confirm: Callable[[Plan], None]
    verify: Callable[[Cluster], None]
    _done: list[str] = field(default_factory=list)

    @property
    def inventory(self) -> Inventory:
        """The inventory all this is for."""
        return self.fleet.inventory

    def run(self, seen: Look | None = None) -> Report:
        """Deploy, wait for convergence, clean up. Raises SwarmkeepError with the failing task.

        `seen` is a look at the cluster that is fresh enough to plan from.
        """
        seen = seen or look(self.fleet, [self.wanted])
        plan = self.plan(seen)
        while True:
            self.show(plan)
            if not plan.changes and self._is_settled(seen.cluster):
                return replace(self._report(seen.cluster, seen.cluster, 0), at_rest=True)
            if self.fleet.dry:
                return self._dry(seen, plan)
            self.confirm(plan)
            self.pull_images(seen)
            if self.wanted.role == proxy_stack.ROLE and plan.deploys:
                proxy_check.check(self.fleet, self.wanted)
            with self._lock(seen.manager) as lease:
                # What was planned may be old: somebody else may have held the lock.
                cluster = parse_sections(seen.manager.name, lease.output)
                seen = replace(seen, cluster=cluster.identified(seen.node_ids))
                again = self.plan(seen)
                if again == plan:
                    return self._under_lock(lease, seen, plan)
            self.say("the cluster has changed in the meantime: planning again")
            plan = again

    def run_locked(self, lease: Lease, seen: Look) -> Report:
        """As `run`, under a lock that is held already, and without a question.

        The lock is given back at the end. Raises SwarmkeepError.
        """
        plan = self.plan(seen)
        self.show(plan)
        return self._under_lock(lease, seen, plan)

    def plan(self, seen: Look) -> Plan:
        """What a deploy would do now. Raises SwarmkeepError where it would be refused."""
        return make_plan(
            self.inventory,
            self.wanted,
            seen,
            self.options.allowed,
            resolve=self.options.resolve,
            prune=self.options.prune,
        )

    def _lock(self, manager: Host) -> AbstractContextManager[Lease]:
        return deploy_lock.held(
            manager,
            self.options.origin,
            self.options.command,
            wait=self.options.wait,
            say=self.say,
            also=observe_command(self.inventory).script,
        )

    def _is_settled(self, cluster: Cluster) -> bool:
        """Whether an unchanged stack needs nothing at all: it runs, works and is on record."""
        ours = [
            one
            for one in convergence.judge(cluster, self.wanted.name, convergence.baseline(cluster))
            if one.service.name in self.wanted.services
        ]
        if not all(one.done for one in ours) or not releases.is_recorded(self.wanted, cluster):
            return False
        self.verify(cluster)
        return True

    def _dry(self, seen: Look, plan: Plan) -> Report:
        for step, first in change_steps.steps(self.inventory, self.wanted, seen.cluster):
            script = change_steps.script(self.inventory, step, seen.cluster, plan, first=first)
            if script.steps:
                seen.manager.run(Command(script.text, script.stdin))
        return Report(self.wanted.name, (), {})

    def pull_images(self, seen: Look) -> None:
        """Fetch the image where it is missing, while everything old still runs."""
        lacking = lacking_image(self.wanted, seen)
        if not lacking:
            return
        self.say(f"pulling {self.wanted.image} on {', '.join(h.name for h in lacking)}")
        values(self.fleet.fan_out(lacking, lambda host: pull(host, self.wanted.image)))

    def _under_lock(self, lease: Lease, seen: Look, plan: Plan) -> Report:
        """Carry the plan out and put the outcome on record, whatever it is."""
        start = time.monotonic()
        try:
            after = self._change(lease, seen, plan)
        except UnreachableError:
            # The manager is gone: nothing can be written there.
            raise
        except BaseException as error:
            give_up(lease, self._ending(seen.cluster, plan, start, error), error)
            raise
        try:
            self.verify(after)
            number = self._finish(lease, self._ending(after, plan, start))
        except BaseException as error:
            give_up(lease, self._ending(after, plan, start, error), error)
            raise
        return self._report(seen.cluster, after, number)

    def _change(self, lease: Lease, seen: Look, plan: Plan) -> Cluster:
        before = seen.cluster
        after, found = before, ""
        self._note(app_database.for_plan(self.fleet, self.wanted, plan, before))
        for step, first in change_steps.steps(self.inventory, self.wanted, before):
            script = change_steps.script(self.inventory, step, before, plan, first=first)
            try:
                self._apply(lease, script)
                after = self._await(lease, step, before)
                found = self._cluster(plan, seen, after)
            except (UnreachableError, LockLostError):
                # Nothing can be taken back on a manager that is gone, nor what is another's
                # now; Swarm itself goes on.
                raise
            except SwarmkeepError as error:
                if not self.options.keep_failed:
                    self._take_back(lease, step, before, plan, error)
                raise
        for line in plans.unpinned(self.wanted, plan, after):
            self.say(f"warning: {line}")
        script = ChangeScript()
        script.labels(
            [*plan.labels_after, *cluster_identity.labels(self.wanted.name, found, after)]
        )
        self._apply(lease, script)
        for name in plan.removes:
            script = ChangeScript()
            script.remove(name)
            self._apply(lease, script)
        return after

    def _cluster(self, plan: Plan, seen: Look, after: Cluster) -> str:
        """The system identifier that PostgreSQL came up with, "" where nobody had to ask."""
        if self.wanted.role != "db" or not plan.deploys:
            return ""
        known = known_cluster(self.inventory, self.wanted, seen)
        allowed = self.options.allowed
        return cluster_identity.check(
            self.fleet,
            self.wanted,
            after,
            known="" if allowed.leave_data or allowed.move_data_host else known,
        )

    def _apply(self, lease: Lease, script: ChangeScript) -> None:
        if not script.steps:
            return
        script.check(lease.change(script.text, script.stdin))
        self._note(script.done)

    def _note(self, done: Sequence[str]) -> None:
        self._done += done
        for line in done:
            self.say(line)

    def _await(self, lease: Lease, wanted: Wanted, before: Cluster) -> Cluster:
        manager = lease.manager
        return await_stack(
            partial(watch, manager),
            wanted,
            convergence.baseline(before),
            timeout=self.inventory.deploy_timeout,
            say=self.say,
            logs=lambda task_id: (
                manager.run(Command(docker_commands.task_logs(task_id, 15), changes=False)).stdout
            ),
        )

    def _take_back(
        self, lease: Lease, step: Wanted, before: Cluster, plan: Plan, error: SwarmkeepError
    ) -> None:
        """Go back to what was there before; that this fails too does not hide why it had to be."""
        try:
            take_back(
                lease.change, partial(observe, lease.manager), step, before, plan.labels, self.say
            )
        except SwarmkeepError as failure:
            raise type(error)(
                error.message,
                hint="see what there is now: inv status, inv plan; fix the cause, deploy again",
                details=(*error.details, f"and taking it back failed: {failure.message}"),
            ) from None

    def _ending(
        self, cluster: Cluster, plan: Plan, start: float, error: BaseException | None = None
    ) -> finish_script.Ending:
        return finish_script.make(
            self.wanted,
            cluster,
            self.options,
            changes=[*self._done, *plan.actions],
            seconds=time.monotonic() - start,
            error=self.wanted.redact(audit_log.reason(error)) if error else "",
        )

    def _finish(self, lease: Lease, ending: finish_script.Ending) -> int:
        """In one round trip: keep the release, let old secrets go, write the log, unlock.

        Returns the release's number, 0 where none was kept.
        """
        result = lease.finish(ending.script, ending.stdin)
        if ending.number and "kept" not in result.stdout.split():
            said = result.stderr.strip().splitlines()
            self.say(f"warning: the release could not be kept: {said[-1] if said else '?'}")
            return 0
        return ending.number

    def _report(self, before: Cluster, after: Cluster, release: int) -> Report:
        outcome = finish_script.outcome_of(self.wanted, before, after, prune=self.options.prune)
        images = images_of(after, self.inventory.data_stacks)
        away = {one.name: convergence.away_seconds(before, after, one) for one in after.services}
        gone = {name: seconds for name, seconds in away.items() if name in outcome and seconds}
        return Report(self.wanted.name, tuple(self._done), outcome, release, images, gone)
