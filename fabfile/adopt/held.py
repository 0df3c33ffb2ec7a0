"""A script on a host that goes on for as long as we live: it reads a sign of life, again and again.

Where none comes any more, it ends by itself, and puts right what it holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result

SILENCE_SECONDS = 20
BEAT_SECONDS = 2.0
_END_SECONDS = 300.0


class Held:
    """The script, in a thread of its own. It says `word` on a line once it holds what it is to."""

    def __init__(
        self,
        host: Host,
        script: str,
        word: str,
        what: str,
        *,
        on_line: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.lines: list[str] = []
        self._host = host
        self._script = script
        self._word = word
        self._what = what
        self._on_line = on_line
        self._over = threading.Event()
        self._last = b""
        self._ready = threading.Event()
        self._result: Result | None = None
        self._error: SwarmkeepError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin; return once it holds. Raises SwarmkeepError if it ends before."""
        self._thread.start()
        while not self._ready.wait(0.1):
            if not self._thread.is_alive() and not self._ready.is_set():
                raise self._failure()

    def check(self) -> None:
        """Raise SwarmkeepError if it holds no longer."""
        if not self._thread.is_alive():
            raise self._failure()

    def end(self, last: bytes = b"") -> Result | None:
        """Let it end, with a last sign; return how it ended, None if that cannot be seen."""
        self._last = last
        self._over.set()
        if self._thread.ident:
            self._thread.join(_END_SECONDS)
        return self._result

    def _failure(self) -> SwarmkeepError:
        if self._error:
            return self._error
        said = self._result.stderr.strip().splitlines() if self._result else []
        return SwarmkeepError(
            f"{self._host.name}: {self._what}: {said[-1] if said else 'ended without an answer'}",
            hint="run it again",
            details=tuple(said[-6:-1]),
        )

    def _run(self) -> None:
        try:
            self._result = self._host.feed(
                Command(self._script),
                self._beats(),
                timeout=24 * 3600.0,
                on_line=self._read,
            )
        except SwarmkeepError as error:
            self._error = error

    def _beats(self) -> Iterator[bytes]:
        while not self._over.wait(BEAT_SECONDS):
            yield b"."
        if self._last:
            yield self._last

    def _read(self, line: str) -> None:
        if line.partition(" ")[0] == self._word:
            self._ready.set()
            return
        self.lines.append(line)
        self._on_line(line)
