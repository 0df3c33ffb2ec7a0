"""Another database takes the live one's place, and comes back out of it if the app does not answer.

The order: the app is stopped, by a guard that needs nobody to bring it back (app_pause.py); both
databases change their names in one transaction (restore-pg.sh swap); the app is started, and
asked something that it needs its database for. Whoever dies at any moment of this, the app
comes up again, on the one database or the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fabfile import app_pause, convergence, restore
from fabfile.errors import SwarmkeepError, UnreachableError
from fabfile.inventory import Inventory
from fabfile.lock import Lease
from fabfile.preflight import observe
from fabfile.probe import await_app
from fabfile.swarm import Cluster
from fabfile.transport import Fleet, Host, succeeded

POLL_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass
class Exchange:
    """One exchange, under the deploy lock. `host` runs the database's container.

    `note` gets what was changed (for the record), `say` everything worth a line.
    """

    fleet: Fleet
    lease: Lease
    host: Host
    say: Say
    note: Say

    def run(self, database: str, other: str, keep_as: str) -> None:
        """Let `other` take the place of `database`, which is kept under another name.

        Raises SwarmkeepError; then the live database is in its place again.
        """
        before = self._app(database)
        try:
            self._swap(before, database, other, keep_as)
        except SwarmkeepError as error:
            advice = f"{other} is still there: inv backup.swap {other}"
            hint = f"{error.hint}; {advice}" if error.hint else advice
            raise type(error)(error.message, hint=hint, details=error.details) from None
        if before is None:
            return
        try:
            self._await(before)
        except UnreachableError as error:
            raise SwarmkeepError(
                f"{database} is the other one now, but whether NocoDB answers could not be seen: "
                f"{error.message}",
                hint=f"see inv status; to go back: inv backup.swap {keep_as}",
            ) from None
        except SwarmkeepError as error:
            self._back(before, database, other, keep_as, error)
            raise SwarmkeepError(
                f"{error.message}; the databases were swapped back: all is as it was",
                hint=f"what was to be the live one is still there, as {other}: look into it",
                details=error.details,
            ) from None

    def _back(
        self, before: Cluster, database: str, other: str, keep_as: str, error: SwarmkeepError
    ) -> None:
        self.say("this did not work: going back")
        try:
            # What has failed until now is no failure of what comes back.
            failed = observe(self.lease.manager)
            self._swap(before, database, keep_as, other)
            self._await(failed)
        except SwarmkeepError as failure:
            raise SwarmkeepError(
                f"{error.message}; and going back failed: {failure.message}",
                hint=f"see inv status, mend the cause; then: inv backup.swap {keep_as}",
                details=error.details,
            ) from None

    def _swap(self, before: Cluster | None, database: str, other: str, keep_as: str) -> None:
        line = restore.swap_command(database, other, keep_as)
        if before is None:
            self._still_ours()
            restore.run(self.host, line, self.note)
            return
        self._still_ours()
        self.say(f"{self._service}: stopping it")
        with app_pause.stopped(self.lease.manager, self._service) as pause:
            self._still_ours()
            pause.check()
            restore.run(self.host, line, self.note)
        self.say(f"{self._service}: starting it")

    def _app(self, database: str) -> Cluster | None:
        """What there is now, if the database is the app's and the app runs."""
        if database != self._inventory.postgres.database:
            return None
        cluster = observe(self.lease.manager)
        service = cluster.service(self._service)
        if service is None:
            return None
        # Noted by a guard of a lost client: it is down for a moment only.
        paused = app_pause.LABEL in service.spec.get("Labels", {})
        return cluster if paused or service.replicas != 0 else None

    def _still_ours(self) -> None:
        succeeded(self.lease.change(":\n"), "looking at the deploy lock")

    def _await(self, before: Cluster) -> None:
        """Wait until the app has converged and answers from its database."""
        stack = self._inventory.app.stack
        baseline = convergence.baseline(before)
        end = time.monotonic() + self._inventory.deploy_timeout
        while True:
            cluster = observe(self.lease.manager)
            progress = convergence.judge(cluster, stack, baseline)
            late = sorted(
                (one for one in progress if not one.done), key=lambda one: not one.failure
            )
            if not late:
                break
            if late[0].failure or time.monotonic() > end:
                raise _not_up(late[0])
            time.sleep(POLL_SECONDS)
        await_app(self.fleet, self._inventory, cluster)
        self.say(f"{stack}: NocoDB answers from its database")

    @property
    def _inventory(self) -> Inventory:
        return self.fleet.inventory

    @property
    def _service(self) -> str:
        return f"{self._inventory.app.stack}_nocodb"


def _not_up(one: convergence.Progress) -> SwarmkeepError:
    why = one.failure or f"{one.running}/{one.wanted} running ({one.doing})"
    return SwarmkeepError(
        f"{one.service.name}: {why}",
        hint=f"look at: docker service logs {one.service.name}",
    )
