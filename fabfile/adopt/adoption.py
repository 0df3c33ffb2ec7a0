"""The move: attachments once, NocoDB stopped, databases copied and compared, the rest of the
attachments, the app deployed and asked.

Until the app is deployed a guard brings the source's NocoDB back, whoever dies. From then on it
stays stopped, for two NocoDBs must never write side by side; a note on the db host then says
where things stand, and what starts the source again.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from fabfile.adopt import attachments, database_names
from fabfile.adopt.attachments import Attachments
from fabfile.adopt.database_copy import DatabaseCopy, Session
from fabfile.adopt.inspection import Found
from fabfile.adopt.server import Server
from fabfile.adopt.stopping import StoppedApp, Switch, start_all, stop_all
from fabfile.backup import selection
from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import Inventory
from fabfile.deploy.deployment import Deployment
from fabfile.deploy.finish_script import Report
from fabfile.deploy.locked_change import Record
from fabfile.deploy.observation import look
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, RemoteFile
from fabfile.swarm import deploy_lock
from fabfile.swarm.deploy_lock import Lease

SWITCHING, DONE, UNDOING = "switching", "done", "undoing"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Note:
    """What is on record of a move, on the db host, until it is finished or undone."""

    source: str
    when: str
    """In UTC."""
    phase: str
    host: str
    """Where the source is started and stopped: a host of hosts.yaml, or an address."""
    apps: tuple[Switch, ...]
    database: Switch | None
    """The source's PostgreSQL, if that was stopped, too."""
    databases: tuple[str, ...]
    written: tuple[int, int, int]
    """What the new server's counters were after the copy."""
    folders: tuple[str, ...]
    """Where the source has its data, for a person."""
    kept: tuple[str, ...] = ()
    """The names under which --undo keeps the databases, one for each."""

    def undoing(self) -> Note:
        """The same, once somebody goes back."""
        now = datetime.now(UTC)
        names = tuple(selection.new_name(name, "adopted", now) for name in self.databases)
        return replace(self, phase=UNDOING, kept=self.kept or names)


def parse_note(text: str) -> Note | None:
    """Given what the db host has on record, return it; None where there is nothing to be read."""
    try:
        data = json.loads(text)
        data["apps"] = tuple(Switch(**one) for one in data["apps"])
        data["database"] = Switch(**data["database"]) if data["database"] else None
        for name in ("databases", "written", "folders", "kept"):
            data[name] = tuple(data[name])
        return Note(**data)
    except (ValueError, KeyError, TypeError):
        return None


def note_path(inventory: Inventory) -> str:
    """The note's place on the db host."""
    return f"/var/lib/{inventory.named('swarmkeep-adopted')}.json"


def read_note(host: Host) -> Note | None:
    """What is on record; None if nothing is."""
    command = Command(f"cat {note_path(host.inventory)} 2>/dev/null || :", changes=False)
    return parse_note(host.check(command, "reading the note").stdout)


def write_note(host: Host, note: Note) -> None:
    """Put a note on record."""
    text = json.dumps(asdict(note)) + "\n"
    host.write_files([RemoteFile(note_path(host.inventory), text.encode(), 0o600)])


def forget_note(host: Host) -> None:
    """Take it off record."""
    host.check(Command(f"rm -f {note_path(host.inventory)}"), "removing the note")


@dataclass
class Adoption:
    """One move. `apps` and `database` are the source's switches, on `control`."""

    deployment: Deployment
    found: Found
    session: Session
    copy: DatabaseCopy
    attachments: Attachments
    control: Host
    apps: tuple[Switch, ...]
    database: Switch | None
    say: Say
    stopped_seconds: float = 0
    """How long NocoDB did not answer."""
    _record: Record = field(default_factory=Record)

    @property
    def target(self) -> Server:
        """The new PostgreSQL."""
        return self.copy.target

    def run(self) -> Report:
        """Move. Raises SwarmkeepError; then the source runs as it did, or the error says how to
        start it.
        """
        deployment, options = self.deployment, self.deployment.options
        seen = look(deployment.fleet, [deployment.wanted])
        deployment.plan(seen)  # what it would refuse is refused now
        deployment.pull_images(seen)
        self.say("copying the attachments, while NocoDB runs")
        self.attachments.copy()
        with deploy_lock.held(
            seen.manager, options.origin, options.command, wait=options.wait, say=self.say
        ) as lease:
            try:
                return self._switch(lease)
            except BaseException as error:
                self.session.end()
                if isinstance(error, SwarmkeepError) and not lease.released:
                    self._record.error = error.message
                    with contextlib.suppress(SwarmkeepError):
                        lease.release(self._record.line(options, deployment.inventory.project))
                raise

    def _switch(self, lease: Lease) -> Report:
        stopped = StoppedApp(self.control, self.apps)
        self.say(f"stopping {', '.join(one.what for one in self.apps)}")
        start = time.monotonic()
        stopped.start()
        try:
            self.session.start()
            self.copy.copy()
            self.say(
                f"databases copied and compared: {self.copy.tables} tables, {self.copy.rows} rows"
            )
            self.attachments.finish(self.say)
            self.session.check_unchanged()
            note = self._note()
            write_note(self.target.host, note)
            stopped.check()
            stopped.keep()
        except BaseException:
            # Ctrl-C may have closed the connections: then the guard starts it by itself.
            self._back(stopped.bring_back)
            raise
        try:
            report = self.deployment.run_locked(
                lease, look(self.deployment.fleet, [self.deployment.wanted])
            )
        except SwarmkeepError as error:
            self._take_back(error)
            raise
        except KeyboardInterrupt:
            self.say("the source stays stopped; next: the same command again, or inv adopt --undo")
            raise
        self.stopped_seconds = time.monotonic() - start
        # The source's server ends while the locks are held: who waits for one is refused by it, not
        # taken and lost.
        settle(self.target, self.attachments.target, self.control, note)
        self.session.end()
        return report

    def _note(self) -> Note:
        return Note(
            str(self.found.source),
            datetime.now(UTC).isoformat(timespec="seconds"),
            SWITCHING,
            self.control.name if self.found.source.kind == "stack" else self.found.source.host,
            self.apps,
            self.database,
            tuple(self.session.databases),
            self.target.written(tuple(self.session.databases)),
            tuple(
                f"{container.host.name}:{path}"
                for container in (self.found.app, self.found.database)
                if container
                for path in container.mounts.values()
                if path
            ),
        )

    def _back(self, bring_back: Callable[[], None]) -> None:
        """Whatever has failed, the source runs again and the copy is gone, as far as we can."""
        with contextlib.suppress(SwarmkeepError):
            self.session.end()
        bring_back()
        self.say(f"{', '.join(one.what for one in self.apps)}: started again")
        # Over a new connection, where the old one is lost.
        host = self.deployment.fleet.host(self.target.host.entry)
        try:
            forget_note(host)
        except SwarmkeepError:
            self.say("warning: the note of the move is still there; next: inv adopt --undo")
        with contextlib.suppress(SwarmkeepError):
            database_names.abandon(replace(self.target, host=host))

    def _take_back(self, error: SwarmkeepError) -> None:
        """The new app does not work: it is removed, and the source started."""
        fleet = self.deployment.fleet
        stack = fleet.inventory.app.stack
        try:
            fleet.first_manager().check(Command(remove_app(stack)), f"removing {stack}")
            app_host = fleet.host(self.attachments.target.entry)
            app_host.check(Command(ended(stack)), f"ending {stack}")
            control = fleet.host(self.control.entry)
            self._back(lambda: start_all(control, self.apps))
        except SwarmkeepError as failure:
            names = ", ".join(one.what for one in self.apps)
            error.message += f"; and starting {names} again failed: {failure.message}"
            error.hint = f"inv adopt --undo; {failure.hint}"
            return
        error.message += "; the source runs as it did"


def settle(target: Server, app_host: Host, control: Host, note: Note) -> None:
    """The copy is the real one from now on; the source's server is stopped."""
    if note.database:
        stop_all(control, [note.database])
    database_names.settle(target)
    attachments.settle(app_host, target.host.inventory.app.stack)
    write_note(target.host, replace(note, phase=DONE))


def undo(target: Server, manager: Host, app_host: Host, control: Host, note: Note) -> None:
    """The source runs again, the app is removed; the copies are kept as `note.kept` says.

    May be called again where it has failed. Raises SwarmkeepError.
    """
    stack = target.host.inventory.app.stack
    write_note(target.host, note)
    manager.check(Command(remove_app(stack)), f"removing {stack}")
    app_host.check(Command(ended(stack)), f"ending {stack}")
    # The next try must not take them for its own unfinished copy.
    attachments.settle(app_host, stack)
    # Even if the move was cut off: NocoDB may have come up, and people worked in it.
    database_names.set_aside(target, dict(zip(note.databases, note.kept, strict=True)))
    start_all(control, [*([note.database] if note.database else []), *note.apps])
    forget_note(target.host)


def remove_app(stack: str) -> str:
    """The script that removes the app's services and waits until their tasks have ended."""
    name = shlex.quote(stack)
    label = shlex.quote(f"com.docker.stack.namespace={stack}")
    return (
        f"docker stack rm {name} >/dev/null 2>&1 || :; end=$(($(date +%s) + 120))\n"
        f'while [ -n "$(docker service ls -q --filter label={label})" ]; do\n'
        f"  [ $(date +%s) -lt $end ] || {{ echo {name} is still there >&2; exit 1; }}; sleep 0.3\n"
        "done"
    )


def ended(stack: str) -> str:
    """The script that waits until no container of a stack runs on a host."""
    label = shlex.quote(f"com.docker.stack.namespace={stack}")
    return (
        "end=$(($(date +%s) + 120))\n"
        f'while [ -n "$(docker ps -q --filter label={label})" ]; do\n'
        f"  [ $(date +%s) -lt $end ] || {{ echo its tasks do not end >&2; exit 1; }}; sleep 0.3\n"
        "done"
    )
