"""NocoDB stopped for a moment, in a way that brings it back whatever becomes of us.

A guard on a manager scales the app down and waits at the end of our SSH channel. It scales it up
again when we say so, when the channel ends, or after SILENCE_SECONDS without a sign of life:
nobody needs to be alive for that. How many replicas there were is noted on the service itself,
so that a second guard beside one that still waits never takes their absence for the rule.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fabfile.errors import SwarmkeepError
from fabfile.transport import Command, Host, Result

SILENCE_SECONDS = 20
BEAT_SECONDS = 2.0
DOWN_SECONDS = 120
"""How long the app's tasks may take to end."""
LABEL = "swarmkeep.replicas"
"""On a service that a guard has scaled down: how many replicas it had."""

_WAIT_SECONDS = 300.0

Say = Callable[[str], None]


def guard_script(service: str) -> str:
    """The script that scales a service down, says "down <replicas>", and scales it up at the end.

    Fails if the service is not there or is a global one, which cannot be scaled.
    """
    return f"""set -eu
trap '' PIPE
service={shlex.quote(service)}
ask() {{ docker service inspect --format "$1" "$service"; }}
change() {{ docker service update --detach "$@" "$service" >/dev/null; }}
replicas=$(ask '{{{{index .Spec.Labels "{LABEL}"}}}}')
[ -n "$replicas" ] || replicas=$(ask '{{{{.Spec.Mode.Replicated.Replicas}}}}')
back() {{
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    change --replicas "$replicas" --label-rm {LABEL} && break
    sleep 2
  done
}}
trap back EXIT
trap 'exit 1' HUP INT TERM
change --replicas 0 --label-add "{LABEL}=$replicas"
end=$(( $(date +%s) + {DOWN_SECONDS} ))
at_work() {{ docker service ps --format '{{{{.CurrentState}}}}' "$service" | grep -q "$1"; }}
while at_work '^Running' || at_work '^Starting' || at_work '^Preparing'; do
  [ "$(date +%s)" -lt "$end" ] || {{ echo "its tasks do not end" >&2; exit 1; }}
  sleep 0.3
done
echo "down $replicas"
while [ "$(timeout {SILENCE_SECONDS} head -c 1)" = . ]; do :; done
"""


class Pause:
    """The app while it is stopped. `replicas` is how many it had."""

    def __init__(self, manager: Host, service: str) -> None:
        self.replicas = 0
        self._manager = manager
        self._service = service
        self._over = threading.Event()
        self._answered = threading.Event()
        self._down = False
        self._result: Result | None = None
        self._error: SwarmkeepError | None = None
        self._thread = threading.Thread(target=self._guard, daemon=True)

    def start(self) -> None:
        """Stop the app; return once its tasks have ended. Raises SwarmkeepError."""
        self._thread.start()
        if not self._answered.wait(_WAIT_SECONDS) or not self._down:
            self.end()
            raise self._failure("could not be stopped")

    def check(self) -> None:
        """Raise SwarmkeepError if the guard has ended: then the app is on its way up."""
        if not self._thread.is_alive():
            raise self._failure("did not stay stopped")

    def end(self) -> None:
        """Let the guard start the app again, and wait for its end."""
        self._over.set()
        if self._thread.ident:
            self._thread.join(_WAIT_SECONDS)

    def _guard(self) -> None:
        try:
            self._result = self._manager.feed(
                Command(guard_script(self._service)),
                self._beats(),
                timeout=_WAIT_SECONDS * 4,
                on_line=self._read,
            )
        except SwarmkeepError as error:
            self._error = error
        finally:
            self._answered.set()

    def _beats(self) -> Iterator[bytes]:
        while not self._over.wait(BEAT_SECONDS):
            yield b"."

    def _read(self, line: str) -> None:
        word, _, number = line.partition(" ")
        if word == "down" and number.isdecimal():
            self.replicas = int(number)
            self._down = True
            self._answered.set()

    def _failure(self, what: str) -> SwarmkeepError:
        if self._error:
            return self._error
        said = self._result.stderr.strip().splitlines() if self._result else []
        why = said[-1] if said else "no answer"
        return SwarmkeepError(
            f"{self._service}: {what}: {why}; nothing was swapped",
            hint="see inv status; is it deployed as a replicated service?",
        )


@contextmanager
def stopped(manager: Host, service: str) -> Iterator[Pause]:
    """The app stopped for the length of the block, and started again however it ends."""
    pause = Pause(manager, service)
    pause.start()
    try:
        yield pause
    finally:
        pause.end()
