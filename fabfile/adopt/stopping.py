"""The source's NocoDB stopped, and started again: by a guard that needs nobody to be alive.

What is to be stopped is written down as commands of a shell, so that a note on the db host is
enough to start it all again, weeks later.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fabfile.adopt.containers import Container
from fabfile.adopt.held import SILENCE_SECONDS, Held
from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, succeeded

_DOWN_SECONDS = 120
_KEEP = b"k"


@dataclass(frozen=True)
class Switch:
    """How one service or container is stopped and started, on the host that can."""

    what: str
    stop: str
    start: str
    runs: str
    """Succeeds unless it is stopped."""
    gone: str
    """What to run to remove it, for a person."""


def service_switch(host: Host, service: str) -> Switch:
    """The switch of a Swarm service; `host` is a manager. Its published ports are free while it is
    stopped. Raises ConfigError for a global service.
    """
    command = Command(f"docker service inspect {shlex.quote(service)}", changes=False)
    spec: dict[str, Any] = json.loads(host.check(command, "asking Docker").stdout)[0]["Spec"]
    replicated = (spec.get("Mode") or {}).get("Replicated")
    if replicated is None:
        raise ConfigError(
            f"{service}: is a global service, which cannot be stopped for a moment",
            hint="make it a replicated one first (deploy.mode)",
        )
    ports = ((spec.get("EndpointSpec") or {}).get("Ports")) or []
    free = "".join(
        f" --publish-rm {port['TargetPort']}/{port.get('Protocol', 'tcp')}" for port in ports
    )
    again = "".join(
        f" --publish-add mode={port.get('PublishMode', 'ingress')},target={port['TargetPort']},"
        f"protocol={port.get('Protocol', 'tcp')}"
        + (f",published={port['PublishedPort']}" if port.get("PublishedPort") else "")
        for port in ports
    )
    name, replicas = shlex.quote(service), int(replicated.get("Replicas", 1))
    change = "docker service update --detach"
    wanted = "{{.Spec.Mode.Replicated.Replicas}}"
    return Switch(
        service,
        f"{change} --replicas 0{free} {name} >/dev/null && "
        f"end=$(($(date +%s) + {_DOWN_SECONDS})) && "
        f"while docker service ps --format '{{{{.CurrentState}}}}' {name} | "
        "grep -qE '^(Running|Starting|Preparing)'; do "
        f"[ $(date +%s) -lt $end ] || {{ echo {name}: its tasks do not end >&2; exit 1; }}; "
        "sleep 0.3; done",
        f"{change} --replicas {replicas}{again} {name} >/dev/null",
        f"[ \"$(docker service inspect -f '{wanted}' {name})\" != 0 ]",
        f"docker service rm {name}",
    )


def container_switch(container: Container, *, database: bool = False) -> Switch:
    """The switch of a container; while it is stopped, Docker does not start it by itself."""
    name = shlex.quote(container.name)
    # NocoDB ends where its database does not answer yet.
    answers = (
        f" && for _ in $(seq 120); do ! docker exec {name} pg_isready -q || break; sleep 0.5; done"
    )
    return Switch(
        container.name,
        f"docker update --restart=no {name} >/dev/null && docker stop -t 60 {name} >/dev/null",
        f"docker update --restart={container.restart} {name} >/dev/null && "
        f"docker start {name} >/dev/null{answers if database else ''}",
        f"[ \"$(docker inspect -f '{{{{.State.Running}}}}' {name})\" != false ]",
        f"docker rm -v {name}",
    )


def stop_all(host: Host, switches: Sequence[Switch]) -> None:
    """Stop all of them. Raises SwarmkeepError."""
    script = "set -e\n" + "\n".join(one.stop for one in switches)
    succeeded(host.run(Command(script), timeout=_DOWN_SECONDS * 2), "stopping the source")


def start_all(host: Host, switches: Sequence[Switch]) -> None:
    """Start all of them, in their order. Raises SwarmkeepError."""
    script = "".join(
        f"n=0; until {one.start}; do n=$((n + 1)); [ $n -lt 5 ] || exit 1; sleep 2; done\n"
        for one in switches
    )
    names = ", ".join(one.what for one in switches)
    succeeded(
        host.run(Command(script), timeout=_DOWN_SECONDS * 2),
        f"starting {names} again",
        hint=f"on {host.name}, by hand: {'; '.join(one.start for one in switches)}",
    )


def running(host: Host, switches: Sequence[Switch]) -> list[str]:
    """Those that are not stopped, by what a person calls them. Raises SwarmkeepError."""
    script = "\n".join(f"if {one.runs}; then echo {shlex.quote(one.what)}; fi" for one in switches)
    return host.check(Command(script, changes=False), "asking Docker").stdout.splitlines()


class StoppedApp:
    """The source's NocoDB while it is stopped; it runs again when we go, unless told to stay."""

    def __init__(self, host: Host, switches: Sequence[Switch]) -> None:
        self._host = host
        self._switches = tuple(switches)
        self._held = Held(host, _guard(switches), "down", "stopping NocoDB")

    def start(self) -> None:
        """Stop it; return once it is. Raises SwarmkeepError; then it runs."""
        try:
            self._held.start()
        except SwarmkeepError:
            self._held.end()
            raise

    def check(self) -> None:
        """Raise SwarmkeepError if the guard has ended: then it is on its way up."""
        self._held.check()

    def keep(self) -> None:
        """Let it stay stopped whatever becomes of us. Raises SwarmkeepError if it may not be."""
        result = self._held.end(_KEEP)
        if result is None or "kept" not in result.stdout.split():
            self.bring_back()
            raise SwarmkeepError(
                f"{self._host.name}: NocoDB did not stay stopped; it runs as it did",
                hint="run it again",
            )

    def bring_back(self) -> None:
        """Start it again. Raises SwarmkeepError if that cannot be done."""
        result = self._held.end()
        if result is None or result.exit_code != 0 or "kept" in result.stdout.split():
            start_all(self._host, self._switches)


def _guard(switches: Sequence[Switch]) -> str:
    down = "\n".join(f"  {one.stop} || return" for one in switches)
    up = " && ".join(f"{{ {one.start}; }}" for one in switches)
    return f"""set -u
trap '' PIPE
down() {{
{down}
}}
back() {{
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if {up}; then return 0; fi
    sleep 2
  done
  exit 1
}}
trap '[ -n "${{kept:-}}" ] || back' EXIT
trap 'exit 1' HUP INT TERM
down || exit 1
echo down
while word=$(timeout {SILENCE_SECONDS} head -c 1); do
  case $word in
    .) ;;
    {_KEEP.decode()}) kept=yes; echo kept; exit 0 ;;
    *) exit 0 ;;
  esac
done
exit 0
"""
