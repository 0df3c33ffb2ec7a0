"""NocoDB stopped for a moment, in a way that brings it back whatever becomes of us.

A guard on a manager scales the app down and waits at the end of our SSH channel. It scales it up
again when we say so, when the channel ends, or after SILENCE_SECONDS without a sign of life:
nobody needs to be alive for that. Where the guard itself dies, we do it in its place. How many
replicas there were is noted on the service itself, so that whoever comes next, a second guard
too, never takes their absence for the rule.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result, succeeded

SILENCE_SECONDS = 20
BEAT_SECONDS = 2.0
DOWN_SECONDS = 120
"""How long the app's tasks may take to end."""
LABEL = "swarmkeep.replicas"
"""On a service that a guard has scaled down: how many replicas it had."""

_WAIT_SECONDS = 300.0

Change = Callable[[str], Result]


class StillDownError(SwarmkeepError):
    """The app is stopped, and could not be started again."""


def guard_script(service: str) -> str:
    """The script that scales a service down, says "down <replicas>", and scales it up at the end.

    Fails if the service is not there or is a global one, which cannot be scaled; and if it
    could not be scaled up again.
    """
    return f"""{_common(service)}
[ -n "$replicas" ] || replicas=$(ask '{{{{.Spec.Mode.Replicated.Replicas}}}}')
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


def up_script(service: str) -> str:
    """The script that does what a guard should have done: scale up what the label says is down.

    The label comes and goes with the replicas, so without one there is nothing to do.
    """
    return f"""{_common(service)}
[ -z "$replicas" ] || back
"""


def _common(service: str) -> str:
    return f"""set -eu
trap '' PIPE
service={shlex.quote(service)}
ask() {{ docker service inspect --format "$1" "$service"; }}
change() {{ docker service update --detach "$@" "$service" >/dev/null; }}
back() {{
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    change --replicas "$replicas" --label-rm {LABEL} && return
    sleep 2
  done
  exit 1
}}
replicas=$(ask '{{{{index .Spec.Labels "{LABEL}"}}}}')"""


class Pause:
    """The app while it is stopped. `replicas` is how many it had.

    `change` runs a script on a manager, if that is still ours to do.
    """

    def __init__(
        self, manager: Host, service: str, change: Change, deploy: str = "inv deploy-app"
    ) -> None:
        self._deploy = deploy
        self.replicas = 0
        self._change = change
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
        if self._answered.wait(_WAIT_SECONDS) and self._down:
            return
        self._let_go()
        error = self._failure("could not be stopped")
        self._bring_back(error)
        raise error

    def check(self) -> None:
        """Raise SwarmkeepError if the guard has ended: then the app is on its way up."""
        if not self._thread.is_alive():
            raise self._failure("did not stay stopped")

    def end(self, error: SwarmkeepError | None = None) -> None:
        """Let the guard start the app again; where it cannot, do it from here.

        Raises StillDownError, or UnreachableError where it cannot be seen; `error`, what has
        failed until now, is told with it.
        """
        self._let_go()
        self._bring_back(error)

    def _let_go(self) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join(_WAIT_SECONDS)

    def _bring_back(self, error: SwarmkeepError | None) -> None:
        if self._result and self._result.exit_code == 0:
            return
        try:
            succeeded(self._change(up_script(self._service)), "docker service update")
        except SwarmkeepError as failure:
            before = f"{error.message}; and " if error else ""
            details = error.details if error else ()
            if isinstance(failure, UnreachableError):
                raise UnreachableError(
                    f"{before}whether {self._service} was started again could not be seen: "
                    f"{failure.message}",
                    hint="see inv status: its guard on the manager starts it within "
                    f"{SILENCE_SECONDS} s",
                    details=details,
                ) from None
            raise StillDownError(
                f"{before}{self._service} is stopped and could not be started again: "
                f"{failure.message}",
                hint=f"{self._deploy} starts it"
                + (f"; or on a manager: {self._by_hand()}" if self._down else ""),
                details=details,
            ) from None

    def _by_hand(self) -> str:
        return (
            f"docker service update --replicas {self.replicas} --label-rm {LABEL} {self._service}"
        )

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
        why = said[-1] if said else f"its guard on {self._manager.name} ended without an answer"
        return SwarmkeepError(
            f"{self._service}: {what}: {why}; nothing was swapped",
            hint="see inv status; is it deployed as a replicated service?",
        )


@contextmanager
def stopped(
    manager: Host, service: str, change: Change, deploy: str = "inv deploy-app"
) -> Iterator[Pause]:
    """The app stopped for the length of the block, and started again however it ends; `deploy` is
    the command that would start it.

    Raises StillDownError if it could not be started, UnreachableError if that cannot be seen.
    """
    pause = Pause(manager, service, change, deploy)
    pause.start()
    try:
        yield pause
    except SwarmkeepError as error:
        pause.end(error)
        raise
    except BaseException:
        # Ctrl-C may have closed the connection: then the guard starts it by itself.
        with suppress(SwarmkeepError):
            pause.end()
        raise
    pause.end()
