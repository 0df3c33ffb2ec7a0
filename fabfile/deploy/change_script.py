"""The one script that changes the Swarm: labels, network, secrets, stack. Text; runs nothing."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.secret_versions import SecretContent
from fabfile.ssh.remote_command import Result
from fabfile.swarm import docker_commands
from fabfile.swarm.placement import LabelChange

# What Docker says when it refuses something, and what to do. The first that fits counts.
_REFUSALS = (
    (r"Additional property \S+ is not allowed",
     "leave that key out, or write a higher 'version:' at the top of the compose file if it came "
     "with a later one"),
    (r"[Uu]nsupported Compose file version",
     "write the highest 'version:' that the manager's Docker knows at the top of the compose file "
     "(3.9 from Docker 20.10 on, 3.13 from 28 on), or update Docker on the managers"),
    (r"must be a |Does not match|decoding|expected type|Unknown mode|can't be set|[Ii]nvalid type",
     "fix that value in the compose file: numbers and words such as yes and no stand in quotes "
     "where Docker wants a text"),
    (r"only updates to Labels are allowed",
     "Docker cannot change an existing config or secret: give it another name in the compose file"),
    (r"mode change is not allowed",
     "a service cannot change its mode: remove it first (docker service rm), then run "
     "the same again"),
    (r"could not be found|not found",
     "make what the compose file calls external, or correct its name there"),
    (r"already in use", "another service publishes that port: choose another one"),
    (r"undefined (network|volume|secret|config)|contains unsupported options",
     "fix the compose file (compose/), then run the same again"),
)  # fmt: skip
_ANY_REFUSAL = (
    "Docker's own words say what it does not like: fix that (the stack's file is in compose/), "
    "then run the same again"
)


def refusal_hint(said: str) -> str:
    """The next step after Docker refused a change with these words."""
    return next((hint for what, hint in _REFUSALS if re.search(what, said)), _ANY_REFUSAL)


@dataclass
class ChangeScript:
    """Steps in order; the first that fails ends it. What steps read comes through stdin.

    Each step announces itself, so that a failure can be named; docker's own output is
    only of interest where it is an error.
    """

    steps: list[str] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """A line for people per change."""

    def labels(self, changes: Sequence[LabelChange]) -> None:
        """Set and remove labels of nodes."""
        for change in changes:
            self._step(
                f"labelling node {change.node}",
                docker_commands.label_node(change.address, change.add, change.remove),
            )
            self.done.append(f"node {change.node}: {change}")

    def network(self, name: str) -> None:
        """Make the shared network."""
        self._step(f"creating the network {name}", docker_commands.create_network(name))
        self.done.append(f"network {name}: created")

    def secrets(self, contents: Sequence[SecretContent]) -> None:
        """Make versions of secrets and configs.

        One that is there already has this content: its name says so.
        """
        for secret in contents:
            version = secret.version
            kind, name = version.kind, shlex.quote(version.name)
            create = docker_commands.create_version(version, secret.labels, secret.template_driver)
            self._step(
                f"creating the {kind} {version.name}",
                f"{{ docker {kind} inspect {name} >/dev/null 2>&1 || {create}; }}",
                secret.content,
            )
            self.done.append(f"{kind} {version.base}: new version {version.name}")

    def stack(
        self,
        name: str,
        compose: str,
        *,
        cli_major: int,
        resolve_image: str,
        registry_auth: bool,
        unset: Sequence[str] = (),
    ) -> None:
        """Deploy a stack. `registry_auth`: with the manager's login to a private registry.

        `unset` as in `swarm.deploy_stack`.
        """
        command = docker_commands.deploy_stack(
            name,
            cli_major=cli_major,
            resolve_image=resolve_image,
            registry_auth=registry_auth,
            unset=unset,
        )
        self._step(f"docker stack deploy {name}", command, compose.encode())

    def remove(self, service: str) -> None:
        """Remove a service."""
        self._step(f"removing the service {service}", f"docker service rm {shlex.quote(service)}")

    @property
    def text(self) -> str:
        """The whole script."""
        return "set -e\n" + "\n".join(self.steps) + "\n"

    @property
    def stdin(self) -> bytes:
        """A line of base64 for each step that reads something."""
        return b"".join(base64.b64encode(item) + b"\n" for item in self.inputs)

    def check(self, result: Result) -> None:
        """Raise SwarmkeepError naming the step that failed, if one did."""
        if result.exit_code == 0:
            return
        begun = result.stdout.strip().splitlines()
        said = result.stderr.strip().splitlines()
        raise SwarmkeepError(
            f"{result.host}: {begun[-1] if begun else 'changing the Swarm'} failed: "
            f"{said[-1] if said else f'exit code {result.exit_code}'}",
            hint=refusal_hint(result.stderr),
            details=tuple(said[-6:-1]),
        )

    def _step(self, what: str, command: str, content: bytes | None = None) -> None:
        text = f"echo {shlex.quote(what)}\n"
        if content is None:
            text += f"{command} >/dev/null"
        else:
            self.inputs.append(content)
            # printf is the shell's own: what it prints is in no process list.
            text += f'IFS= read -r body; printf %s "$body" | base64 -d | {command} >/dev/null'
        self.steps.append(text)
