"""A new database password, in an order in which every interruption leaves a running app.

PostgreSQL has one password per role, so the app's task with the old one must end just when
the database gets the new one. The order:

1. The vault keeps the new password beside the old one.
2. The app is redeployed with the new one: its old task stops, its new one begins to start.
3. The database gets the new password, long before the new task first asks for it.
4. In the vault the new one counts, the old one is kept beside it.
5. The app has converged and answers: old versions go, the old password leaves the vault.

If the client is lost between 2 and 3, the new task is refused, and Swarm itself goes back to
the old version, whose password is still the right one. The other way round, a client lost
between the two would leave an app that is shut out. After 3 everything fits together, also
without us. Run again, it finds out which password the database has, and carries on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from fabfile.base import scram
from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Inventory
from fabfile.deploy import finish_script
from fabfile.deploy.change_script import ChangeScript
from fabfile.deploy.finish_script import Options
from fabfile.deploy.locked_change import give_up
from fabfile.deploy.observation import Look, look, observe, observe_command
from fabfile.deploy.planning import make_plan
from fabfile.deploy.preflight import Allowed
from fabfile.deploy.stacks import Wanted
from fabfile.deploy.waiting import await_stack
from fabfile.rotation import role_password
from fabfile.rotation.role_password import RolePassword
from fabfile.rotation.rotating_app import RotatingApp, uses
from fabfile.rotation.vault_entries import RotatingVault
from fabfile.ssh.fleet import Fleet
from fabfile.ssh.remote_command import Command, succeeded
from fabfile.swarm import audit_log, convergence, deploy_lock, docker_commands
from fabfile.swarm.deploy_lock import Lease, LockLostError
from fabfile.swarm.state import Cluster
from fabfile.swarm.state_reading import parse_sections

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rotated:
    """What a rotation has to tell. `release` is 0 where none was kept."""

    release: int
    asked: bool
    """Whether PostgreSQL asks for a password on its local socket, as the backup uses it."""


@dataclass
class Rotation:
    """One rotation. `vault` has the passwords; `say` gets a line per step."""

    fleet: Fleet
    app: RotatingApp
    vault: RotatingVault
    options: Options
    say: Say
    _old: Wanted = field(init=False)
    _new: Wanted = field(init=False)
    _changes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        hidden = (self.vault.old.reveal(), self.vault.new.reveal())
        self._old, self._new = (
            self.app.wanted(self.vault.secrets(password), hidden)
            for password in (self.vault.old, self.vault.new)
        )

    @property
    def _inventory(self) -> Inventory:
        return self.fleet.inventory

    def run(self) -> Rotated | None:
        """Rotate, or finish a rotation that was interrupted; None in a dry run.

        Raises SwarmkeepError; then the old password is in force again, or its hint says
        what to do.
        """
        if self.vault.interrupted:
            self.say(f"{self.vault.file}: an earlier rotation was interrupted, carrying on with it")
        seen = look(self.fleet, [self._old])
        self._check(seen)
        if self.fleet.dry:
            self._role(seen.cluster)
            return None
        why, wait = self.options.command, self.options.wait
        also = observe_command(self._inventory).script
        with deploy_lock.held(
            seen.manager, self.options.origin, why, wait=wait, say=self.say, also=also
        ) as lease:
            self.vault.check_unchanged()
            cluster = parse_sections(seen.manager.name, lease.output)
            return self._on_record(lease, replace(seen, cluster=cluster))

    def _on_record(self, lease: Lease, seen: Look) -> Rotated:
        """Rotate and put the outcome on record, whatever it is."""
        start = time.monotonic()
        try:
            return self._rotate(lease, seen, start)
        except BaseException as error:
            said = self._new.redact(audit_log.reason(error))
            give_up(lease, self._ending(seen.cluster, start, said), error)
            if isinstance(error, LockLostError):
                raise self._with_hint(error) from None
            raise

    def _rotate(self, lease: Lease, seen: Look, start: float) -> Rotated:
        role = self._role(seen.cluster)
        kept = role.kept()
        has_new = scram.accepts(kept, role.user, self.vault.new.reveal())
        before = seen.cluster
        if self.vault.interrupted and not has_new:
            before = self.app.settled(lease.manager, self.say)
        self._check(replace(seen, cluster=before))
        fresh = scram.verifier(self.vault.new.reveal())
        role.rehearse(fresh)
        if has_new:
            kept = scram.verifier(self.vault.old.reveal())
            self.vault.switch()
        elif self.vault.prepare():
            self.say(f"{self.vault.file}: the new password is kept as {self.vault.next}")
        try:
            after = self._switch(lease, before, role, "" if has_new else fresh)
        except LockLostError:
            raise
        except UnreachableError as error:
            # Nothing more can be done from here; what there is goes on without us.
            raise self._with_hint(error) from None
        except SwarmkeepError as error:
            self._undo(lease, role, kept, error)
            raise
        release = self._finish(lease, after, start)
        return Rotated(release, role.asked)

    def _switch(self, lease: Lease, before: Cluster, role: RolePassword, verifier: str) -> Cluster:
        """App, database and vault go over to the new password.

        `verifier` is the new one's, "" if the database has it already.
        """
        if not uses(before, self._new):
            self._deploy(lease, self._new, before)
        if verifier:
            # The role is not changed through the lock's guard: see at least that it is ours.
            succeeded(lease.change(":\n"), "looking at the deploy lock")
            role.change(verifier)
            self._note(f"role {role.user}: has the new password")
        if self.vault.switch():
            self.say(f"{self.vault.file}: {self.app.entry} is the new password")
        manager = lease.manager
        after = await_stack(
            partial(observe, manager),
            self._new,
            convergence.baseline(before),
            timeout=self._inventory.deploy_timeout,
            say=self.say,
            logs=lambda task: (
                manager.run(Command(docker_commands.task_logs(task, 15), changes=False)).stdout
            ),
        )
        self.say(f"{self._new.name}: {self.app.await_works(self.fleet, after)}")
        return after

    def _undo(self, lease: Lease, role: RolePassword, kept: str, error: SwarmkeepError) -> None:
        """Go back to the old password: database, vault, app. Raises if even that fails."""
        self.say("this failed: swapping back to the old password")
        try:
            role.change(kept)
            self.vault.prepare()
            cluster = observe(lease.manager)
            if uses(cluster, self._new):
                self._deploy(lease, self._old, cluster)
            cluster = self.app.settled(lease.manager, self.say)
            self.app.await_works(self.fleet, cluster)
            self.vault.forget()
        except SwarmkeepError as failure:
            raise SwarmkeepError(
                f"{error.message}; and going back to the old password failed: {failure.message}",
                hint=f"see inv status, fix the cause; then {self.app.again}",
                details=error.details,
            ) from None
        self.say("the old password is in force again, in the app, the database and the vault")

    def _finish(self, lease: Lease, after: Cluster, start: float) -> int:
        """Keep the release, let the old versions go, write the log; then the vault."""
        ending = self._ending(after, start)
        versions = [secret.version for secret in self._new.secrets]
        # Those of files have nothing to do with the password: the ending sees to them.
        bases = {version.base: version.name for version in versions if not version.stack}
        # Releases that need them could only bring the app back with a password that is none.
        old = [v for v in after.secrets if bases.get(v.base, v.name) != v.name]
        removal = docker_commands.remove_versions(old) + "\n" if old else ""
        result = lease.change(ending.script + removal, ending.stdin)
        for version in old:
            self.say(f"secret {version.name}: removed")
        self.vault.finish()
        kept = "kept" in result.stdout.split()
        if ending.number and not kept:
            self.say("warning: the release could not be kept")
        return ending.number if kept else 0

    def _ending(self, cluster: Cluster, start: float, error: str = "") -> finish_script.Ending:
        return finish_script.make(
            self._new,
            cluster,
            self.options,
            changes=self._changes,
            seconds=time.monotonic() - start,
            error=error,
        )

    def _check(self, seen: Look) -> None:
        """Raise SwarmkeepError unless the app is as hosts.yaml wants it, and works."""
        app = self.app.stack
        live = self._new if uses(seen.cluster, self._new) else self._old
        # The images stay as they are: no registry is asked.
        plan = make_plan(self._inventory, live, seen, Allowed(), resolve="changed")
        if not seen.cluster.stack(app) or plan.changes:
            raise SwarmkeepError(
                f"{app}: is not as hosts.yaml, compose/ and the vault want it; "
                "a rotation changes the password and nothing else",
                hint=f"see: inv plan; then: inv deploy-app{self.app.words}, and again: inv "
                f"secrets.rotate{self.app.words}",
            )
        if self.vault.interrupted:
            return
        progress = convergence.judge(seen.cluster, app, convergence.baseline(seen.cluster))
        if not all(one.done for one in progress):
            raise SwarmkeepError(
                f"{app}: does not run as it should; nothing was changed",
                hint=f"see: inv status; bring it up first: inv deploy-app{self.app.words}",
            )
        self.app.await_works(self.fleet, seen.cluster)

    def _role(self, cluster: Cluster) -> RolePassword:
        """The role, if the database accepts a password of the vault. Else SwarmkeepError."""
        passwords = [self.vault.old, self.vault.new]
        asked = [Secret(self._old.password), *passwords] if self.app.other else passwords
        role = role_password.find(self.fleet, cluster, asked, self.app.user)
        kept = role.kept()
        if any(scram.accepts(kept, role.user, password.reveal()) for password in passwords):
            return role
        raise SwarmkeepError(
            f"{self._inventory.postgres.service}: the password of {role.user} is not the one in "
            f"{self.vault.file}; nothing was changed",
            hint="is your vault the newest (git pull)? Else put the right password into it: "
            f"inv secrets.set {self.app.entry}",
        )

    def _deploy(self, lease: Lease, wanted: Wanted, cluster: Cluster) -> None:
        script = ChangeScript()
        present = {version.name for version in cluster.secrets}
        script.secrets([s for s in wanted.secrets if s.version.name not in present])
        script.stack(
            wanted.name,
            wanted.stack_input,
            cli_major=cluster.cli_major,
            resolve_image="changed",
            registry_auth=bool(self._inventory.registry),
            unset=wanted.empty_variables,
        )
        script.check(lease.change(script.text, script.stdin))
        for line in script.done:
            self._note(line)
        which = "new" if wanted is self._new else "old"
        self._note(f"{wanted.name}: redeployed with the {which} password")

    def _note(self, line: str) -> None:
        """Say a line that goes into the audit log too."""
        self._changes.append(line)
        self.say(line)

    def _with_hint(self, error: SwarmkeepError) -> SwarmkeepError:
        hint = f"{error.hint}; then {self.app.again}"
        return type(error)(error.message, hint=hint, details=error.details)
