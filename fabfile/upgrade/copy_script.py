"""upgrade-pg.sh on the db host, as seen from here: its arguments, what it says, signs of life.

The script keeps writers away from the old server for as long as we live and the copy is not in
use, and lets them go on by itself when we are gone. Nobody needs to be alive for that.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from fabfile.backup import host_script
from fabfile.backup.host_kit import UPGRADE
from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result

IN_THE_WAY, DIFFERS = 40, 42
"""Exit codes of upgrade-pg.sh: what is there cannot be copied; the copy is another."""
BEAT_SECONDS = 2.0
_KINDS: dict[int, type[SwarmkeepError]] = {IN_THE_WAY: ConfigError, DIFFERS: CheckFailedError}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Version:
    """A PostgreSQL with its data: image, major version, and the volume's name in the stack."""

    image: str
    major: int
    volume: str


@dataclass(frozen=True)
class Note:
    """What is kept on the db host of an upgrade until it is finished. `when` is in UTC."""

    before: Version
    after: Version
    when: str

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def parse_note(text: str) -> Note | None:
    """Given what the script has noted, return it; None where there is nothing that can be read."""
    try:
        data = json.loads(text)
        return Note(Version(**data["before"]), Version(**data["after"]), str(data["when"]))
    except (ValueError, KeyError, TypeError):
        return None


def arguments(
    action: str, image: str, *, volume: str = "", mount: str = "", pgdata: str = "", note: str = ""
) -> str:
    """The script's arguments for an action: check, rehearse or copy."""
    words = [action, "--image", image]
    for option, value in (
        ("--volume", volume), ("--mount", mount), ("--pgdata", pgdata), ("--note", note)
    ):  # fmt: skip
        words += [option, value] if value else []
    return shlex.join(words)


def run(host: Host, line: str, say: Say) -> str:
    """Run the script to its end; return what it printed that is no line of its log.

    Raises SwarmkeepError with the script's own reason and advice.
    """
    return host_script.run(host, UPGRADE, line, say, _KINDS)


class Copy:
    """The script while it copies and keeps writers away, in a thread of its own."""

    def __init__(self, host: Host, line: str, say: Say) -> None:
        self.tables = self.rows = 0
        self._host = host
        self._line = line
        self._reader = host_script.LogReader(say, self._heard)
        self._go = threading.Event()
        self._over = threading.Event()
        self._said: dict[str, threading.Event] = {
            "prepared": threading.Event(),
            "ready": threading.Event(),
        }
        self._result: Result | None = None
        self._error: SwarmkeepError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def prepare(self) -> None:
        """Begin; return once nothing is missing to copy. Raises SwarmkeepError."""
        self._thread.start()
        self._await("prepared")

    def copy(self) -> None:
        """Keep writers away, copy and compare; return once all of that is done.

        Raises SwarmkeepError; then the old server is as it was.
        """
        self._go.set()
        self._await("ready")

    def hold(self) -> None:
        """Raise SwarmkeepError if writers are no longer kept away."""
        if not self._thread.is_alive():
            self._check()

    def end(self) -> None:
        """Wait until the old server has ended. Raises SwarmkeepError if it has not."""
        self._thread.join(RUN_TIMEOUT)
        self._check()

    def give_up(self) -> None:
        """Let writers go on, and remove the copy, unless the service may be using it."""
        self._over.set()
        if self._thread.ident:
            self._thread.join(120)

    def _await(self, word: str) -> None:
        event = self._said[word]
        while not event.wait(0.1):
            if not self._thread.is_alive() and not event.is_set():
                self._check()
                raise SwarmkeepError(
                    f"{self._host.name}: {UPGRADE} has ended without an answer",
                    hint="run it again",
                )

    def _check(self) -> None:
        if self._error:
            raise self._error
        if self._result:
            host_script.check(
                self._host, UPGRADE, self._line, self._result, self._reader.errors, _KINDS
            )

    def _run(self) -> None:
        try:
            self._result = self._host.feed(
                Command(host_script.command(self._host, UPGRADE, self._line)),
                self._beats(),
                timeout=RUN_TIMEOUT,
                on_line=self._reader.read,
            )
        except SwarmkeepError as error:
            self._error = error

    def _beats(self) -> Iterator[bytes]:
        sent = False
        while not self._over.is_set():
            if self._go.is_set() and not sent:
                sent = True
                yield b"g"
            else:
                yield b"."
            (self._over if sent else self._go).wait(BEAT_SECONDS)

    def _heard(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "ready":
            tables, rows, *_ = (*(int(n) for n in rest.split() if n.isdecimal()), 0, 0)
            self.tables, self.rows = tables, rows
        if word in self._said:
            self._said[word].set()
