"""Over SSH: run commands and write files, on one host or on many at once.

ssh/connection.py opens the connections, ssh/channel.py runs one command on one; the rest of
the project sees only what is in here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.ssh import tunnel
from fabfile.ssh.channel import Exchange, Feed
from fabfile.ssh.connection import explain, open_connection
from fabfile.ssh.remote_command import Command, RemoteFile, Result, succeeded, write_command
from fabfile.ssh.ssh_config import route
from fabfile.ssh.tunnel import Answer, Request

if TYPE_CHECKING:
    import fabric

    from fabfile.config.inventory import HostEntry, Inventory

T = TypeVar("T")

MOST_AT_ONCE = 32
"""Connections opened and used side by side: a bound on threads, sockets and the gateway's load."""
COMMAND_TIMEOUT = 120.0
"""Seconds without a byte from a command before its host counts as gone."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What one host gave: a value, or the error that kept it from giving one."""

    entry: HostEntry
    value: T | None = None
    error: SwarmkeepError | None = None


class Host:
    """One machine with one open connection."""

    def __init__(self, fleet: Fleet, entry: HostEntry, connection: fabric.Connection) -> None:
        self.entry = entry
        self.name = entry.name
        self._fleet = fleet
        self._connection = connection

    def run(
        self,
        command: Command,
        *,
        timeout: float = COMMAND_TIMEOUT,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a command and return its result, whatever its exit code.

        `on_line` gets each line of stdout as it arrives. `timeout` is the number of
        seconds of silence after which the host is given up.
        Raises UnreachableError if the connection is lost or sudo refuses.
        """
        return self.feed(command, [command.stdin], timeout=timeout, on_line=on_line)

    def feed(
        self,
        command: Command,
        chunks: Iterable[bytes],
        *,
        timeout: float = COMMAND_TIMEOUT,
        on_line: Callable[[str], None] | None = None,
        keep: bool = True,
    ) -> Result:
        """As `run`, with stdin taken from `chunks` as the command reads it.

        Without `keep`, lines that `on_line` has had are not in the result: for output that is
        larger than memory.
        """
        if self._fleet.dry and command.changes:
            self._fleet.show(f"[{self.name}] {command.script}")
            return Result(self.name, 0, "", "")
        self._fleet.count()
        exchange = Exchange(
            self.label,
            Feed(chunks),
            timeout=timeout,
            on_line=on_line,
            sudo=self._sudo,
            keep=keep,
        )
        try:
            exchange.run(self._connection.transport, command.script)
        except SwarmkeepError:
            raise
        except Exception as error:
            raise self._explained(error) from error
        return Result(self.name, exchange.exit_code, exchange.stdout, exchange.stderr)

    def _explained(self, error: Exception) -> SwarmkeepError:
        ssh = self._fleet.inventory.ssh
        return explain(error, route(ssh, self.entry).target, ssh)

    def check(
        self,
        command: Command,
        what: str,
        *,
        hint: str = "",
        timeout: float = COMMAND_TIMEOUT,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """As `run`, but raise SwarmkeepError "<host>: <what> failed: <why>" if it does."""
        return succeeded(self.run(command, timeout=timeout, on_line=on_line), what, hint=hint)

    def get(self, request: Request) -> Answer:
        """Send a GET request to the host itself, or to what it reaches, through SSH.

        Raises UnreachableError if the connection is lost, OSError where nobody answers there, and
        SwarmkeepError if the SSH server forwards nothing.
        """
        self._fleet.count()
        try:
            return tunnel.get(self._connection.transport, request)
        except (SwarmkeepError, OSError):
            raise
        except Exception as error:
            raise self._explained(error) from error

    def write_files(self, files: Sequence[RemoteFile]) -> dict[str, bool]:
        """Put files in place, each atomically; return for each path whether it changed.

        All in one round trip. Content travels through stdin. A file whose content,
        mode and owner are right already is not touched.
        """
        command = write_command(files)
        result = self.check(command, "writing files", hint="is its disk full or read-only?")
        changed = dict.fromkeys((file.path for file in files), self._fleet.dry)
        for line in result.stdout.splitlines():
            word, _, path = line.partition(" ")
            changed[path] = word == "changed"
        return changed

    @property
    def inventory(self) -> Inventory:
        """The inventory this host is of."""
        return self._fleet.inventory

    @property
    def is_connected(self) -> bool:
        """Whether its connection is open, as far as can be seen from here."""
        return bool(self._connection.is_connected)

    @property
    def label(self) -> str:
        """The host's name and address, for messages."""
        return f"{self.name} ({self.entry.address}:{self.entry.port})"

    @property
    def _sudo(self) -> str | None:
        """None as root; else the sudo password, "" where none was given."""
        if not self._fleet.inventory.ssh.become:
            return None
        return self._fleet.sudo_password or ""


class Fleet:
    """The hosts of an inventory, connected on first use and closed together."""

    def __init__(
        self,
        inventory: Inventory,
        *,
        sudo_password: str | None = None,
        dry: bool = False,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.inventory = inventory
        self.sudo_password = sudo_password
        self.dry = dry
        self.show = echo or (lambda _line: None)
        self.round_trips = 0
        self.manager: HostEntry | None = None
        """The manager that was found to answer for the Swarm; first_manager tries it first."""
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._connections: list[fabric.Connection] = []

    def host(self, entry: HostEntry) -> Host:
        """The connected host. Raises UnreachableError, naming it and the next step."""
        with self._lock:
            known = self._hosts.get(entry.name)
        # One that has broken since its last command is opened anew.
        if known and known.is_connected:
            return known
        connection = open_connection(self.inventory.ssh, entry, self._remember)
        host = Host(self, entry, connection)
        with self._lock:
            self._hosts[entry.name] = host
        return host

    def fan_out(
        self, entries: Sequence[HostEntry], action: Callable[[Host], T]
    ) -> list[Outcome[T]]:
        """Do the same on many hosts at once; one host's failure never hides another's outcome."""

        def one(entry: HostEntry) -> Outcome[T]:
            try:
                return Outcome(entry, value=action(self.host(entry)))
            except SwarmkeepError as error:
                return Outcome(entry, error=error)

        if len(entries) == 1:
            return [one(entries[0])]
        with ThreadPoolExecutor(max_workers=max(1, min(MOST_AT_ONCE, len(entries)))) as pool:
            try:
                return list(pool.map(one, entries))
            except BaseException:
                # Ctrl-C: closing the connections ends the threads that wait on them.
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    def first_manager(self) -> Host:
        """The first manager that can be reached, in the order of the file.

        Raises UnreachableError with every manager's reason if there is none.
        """
        reasons = []
        known = [self.manager] if self.manager else []
        for entry in dict.fromkeys([*known, *self.inventory.managers()]):
            try:
                return self.host(entry)
            except UnreachableError as error:
                reasons.append(error)
        if len(reasons) == 1:
            raise reasons[0]
        raise UnreachableError(
            "no Swarm manager can be reached",
            hint=reasons[0].hint,
            details=tuple(reason.message for reason in reasons),
        )

    def count(self) -> None:
        """Note one more command sent: `round_trips` is what a command costs in latency."""
        with self._lock:
            self.round_trips += 1

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            connections, self._connections = self._connections, []
            self._hosts.clear()
        # The gateway was remembered first and carries the others: it goes last.
        for connection in reversed(connections):
            connection.close()

    def _remember(self, connection: fabric.Connection) -> None:
        with self._lock:
            self._connections.append(connection)


@contextmanager
def connect(
    inventory: Inventory,
    *,
    sudo_password: str | None = None,
    dry: bool = False,
    echo: Callable[[str], None] | None = None,
) -> Iterator[Fleet]:
    """A Fleet whose connections are closed at the end of the block, however it ends."""
    fleet = Fleet(inventory, sudo_password=sudo_password, dry=dry, echo=echo)
    try:
        yield fleet
    finally:
        fleet.close()


def values(outcomes: Sequence[Outcome[T]]) -> list[T]:
    """Given outcomes, return their values, or raise one error naming every host that failed."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        worst = max(errors, key=lambda error: error.exit_code)
        raise type(worst)(
            f"{len(errors)} of {len(outcomes)} hosts failed",
            hint=worst.hint,
            details=tuple(error.message for error in errors),
        )
    return [outcome.value for outcome in outcomes]  # type: ignore[misc]
