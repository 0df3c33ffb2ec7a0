"""PostgreSQL's next major version: copy beside, compare, switch, and the way back.

The order: upgrade-pg.sh prepares a server of the new version; NocoDB is stopped, by a guard that
needs nobody to bring it back; the script keeps all other writers away, copies and compares; the
service gets the new image and the new volume in one change, while writers are still kept away;
NocoDB is started and asked something. Whoever dies at any moment of this, the service runs on the
one volume or the other, with every commit that was acknowledged. The old volume is never touched.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config.inventory import Inventory
from fabfile.deploy.deployment import Deployment
from fabfile.deploy.finish_script import Report
from fabfile.deploy.locked_change import Record
from fabfile.deploy.observation import look, observe
from fabfile.restore import app_pause
from fabfile.restore.app_resumed import await_resumed, replicas_of
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.remote_command import Command, Result
from fabfile.swarm import data_volume, deploy_lock
from fabfile.swarm.deploy_lock import Lease
from fabfile.swarm.state import Cluster
from fabfile.upgrade import copy_script
from fabfile.upgrade.copy_script import Copy, Note, Version

_TAG = re.compile(r"(\d+)(\.\d+)?-[a-z][a-z0-9.]*")

Say = Callable[[str], None]


def live_version(inventory: Inventory, cluster: Cluster) -> Version:
    """What the database's service runs now. Raises SwarmkeepError where that cannot be upgraded."""
    postgres = inventory.postgres
    service = cluster.service(postgres.service)
    if service is None:
        raise SwarmkeepError(
            f"{postgres.service}: is not deployed", hint="deploy it first: inv deploy-db"
        )
    place = data_volume.place_of(service.spec)
    image = service.image.partition("@")[0]
    if not place.source.startswith(f"{postgres.stack}_"):
        raise ConfigError(
            f"{postgres.service}: its data is in {place}, which is no volume of its stack",
            hint=f"only volumes called {postgres.stack}_... can be exchanged; restore a set into a "
            "new stack instead: docs/recovery.md",
        )
    return Version(
        image, data_volume.major_of(image), place.source.removeprefix(f"{postgres.stack}_")
    )


def next_version(live: Version, target: str) -> Version:
    """Given what a user wants, a tag ("17-bookworm") or an image, return what is to run.

    Raises ConfigError for what is no later major version of PostgreSQL.
    """
    image = target if ":" in target else f"{live.image.rpartition(':')[0]}:{target}"
    if not _TAG.fullmatch(image.rpartition(":")[2]):
        raise ConfigError(
            f"{target!r} names no major version and distribution suite",
            hint="say it as in images.postgres: inv upgrade-db 17-bookworm",
        )
    major = data_volume.major_of(image)
    if major < live.major:
        raise ConfigError(
            f"{target}: PostgreSQL {live.major} runs already",
            hint="to go back to the version before: inv upgrade-db --undo",
        )
    return Version(image, major, live.volume if major == live.major else f"pgdata_{major}")


def with_version(inventory: Inventory, version: Version) -> Inventory:
    """The inventory as hosts.yaml says it for this version."""
    postgres = replace(
        inventory.postgres, image=version.image, major=version.major, volume=version.volume
    )
    return replace(inventory, postgres=postgres)


def place_of(version: Version) -> dict[str, str]:
    """Where an image of this version has its data: mount and pgdata, as compose/ has them."""
    if version.major < 18:
        return {"mount": "/var/lib/postgresql/data", "pgdata": "/var/lib/postgresql/data/pgdata"}
    return {"mount": "/var/lib/postgresql", "pgdata": f"/var/lib/postgresql/{version.major}/docker"}


def noted(host: Host) -> Note | None:
    """The upgrade that is on record on the db host, None if there is none."""
    return copy_script.parse_note(copy_script.run(host, "note", lambda _line: None))


def removal(volume: str) -> str:
    """The command that removes a volume, with the ended tasks of the stack that hold it."""
    tasks = f"docker ps -aq --filter volume={volume} | xargs -r docker rm -v"
    return f"{tasks}; docker volume rm {volume}"


@dataclass
class Switch:
    """From one version to the other, under the deploy lock. `deployment` is of what is wanted."""

    fleet: Fleet
    deployment: Deployment
    host: Host
    before: Version
    say: Say
    stopped: list[str] = field(default_factory=list)
    """The apps that were stopped and answer again."""
    stopped_seconds: float = 0
    """How long they did not answer."""

    def upgrade(self, after: Version) -> Report:
        """Copy, compare, switch. Raises SwarmkeepError; then the service is as it was."""
        note = Note(self.before, after, datetime.now(UTC).isoformat(timespec="seconds"))
        line = copy_script.arguments(
            "copy",
            after.image,
            volume=f"{self._inventory.postgres.stack}_{after.volume}",
            note=note.to_text(),
            **place_of(after),
        )
        copy, ready = Copy(self.host, line, self.say), False
        try:
            with self._lock() as lease:
                copy.prepare()
                with self._without_apps(lease):
                    copy.copy()
                    ready = True
                    self.say(f"copied and compared: {copy.tables} tables, {copy.rows} rows")
                    report = self._deploy(lease, copy.hold)
                    copy.end()
        except BaseException as error:
            copy.give_up()
            if ready and isinstance(error, SwarmkeepError) and self._is_as_before():
                # Something may have been written in there for a moment: a person decides.
                volume = f"{self._inventory.postgres.stack}_{after.volume}"
                error.hint += f"; before another try, on {self.host.name}: {removal(volume)}"
            raise
        return report

    def _is_as_before(self) -> bool:
        """Whether the service is seen to run what it ran before."""
        try:
            return live_version(self._inventory, observe(self.fleet.first_manager())) == self.before
        except SwarmkeepError:
            return False

    def go_back(self) -> Report:
        """Give the service its former image and volume. Raises SwarmkeepError."""
        with self._lock() as lease, self._without_apps(lease):
            return self._deploy(lease, lambda: None)

    def _deploy(self, lease: Lease, check: Callable[[], None]) -> Report:
        seen = look(self.fleet, [self.deployment.wanted])
        check()
        return self.deployment.run_locked(lease, seen)

    @contextmanager
    def _lock(self) -> Iterator[Lease]:
        options, record = self.deployment.options, Record()
        manager = self.fleet.first_manager()
        with deploy_lock.held(
            manager, options.origin, options.command, wait=options.wait, say=self.say
        ) as lease:
            live = live_version(self._inventory, observe(manager))
            if live != self.before:
                raise SwarmkeepError(
                    f"{self._inventory.postgres.service}: runs {live.image} meanwhile; nothing was "
                    "changed",
                    hint="see who deploys (inv audit), then run again",
                )
            try:
                yield lease
            except SwarmkeepError as error:
                if not lease.released:
                    record.error = error.message
                    with contextlib.suppress(SwarmkeepError):
                        lease.release(record.line(options, self._inventory.project))
                raise

    @contextmanager
    def _without_apps(self, lease: Lease) -> Iterator[None]:
        """All apps stopped for the length of the block; afterwards they run and answer."""
        before = observe(lease.manager)
        roles = {
            role: name
            for role in ("app", *(one.name for one in self._inventory.apps))
            if (service := before.service(name := self._inventory.app_service(role)))
            and replicas_of(service)
        }
        start = time.monotonic()

        # The lock is given back before the apps are: its guard failing must not depend on it.
        def change(script: str) -> Result:
            return lease.manager.run(Command(script))

        with contextlib.ExitStack() as stopped:
            pauses = []
            for role, name in roles.items():
                self.say(f"{name}: stopping it")
                again = "inv deploy-app" if role == "app" else f"inv deploy-app {role}"
                pauses.append(
                    stopped.enter_context(app_pause.stopped(lease.manager, name, change, again))
                )
            yield
            for pause in pauses:
                pause.check()
            for name in roles.values():
                self.say(f"{name}: starting it")
        for role in roles:
            await_resumed(self.fleet, lease.manager, before, self.say, role=role)
            self.stopped.append("NocoDB" if role == "app" else role)
        self.stopped_seconds = time.monotonic() - start

    @property
    def _inventory(self) -> Inventory:
        return self.fleet.inventory
