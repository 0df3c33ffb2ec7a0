"""Logging the hosts in to a private registry, for images that not everybody may pull."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fabfile.base.errors import ConfigError
from fabfile.ssh.fleet import Fleet, Outcome
from fabfile.ssh.remote_command import Command, Result
from fabfile.vault.reading import REGISTRY_PASSWORD, REGISTRY_USER

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.vault.reading import Secrets


def login_command(registry: str, user: str, password: str) -> Command:
    """The command that logs a host in. Docker keeps the login in root's .docker/config.json.

    https://docs.docker.com/reference/cli/docker/login/
    """
    script = (
        f"docker login --username {shlex.quote(user)} --password-stdin {shlex.quote(registry)} "
        ">/dev/null"
    )
    return Command(script, stdin=password.encode())


def logout_command(registry: str) -> Command:
    """The command that makes a host forget its login; prints "had one" if there was one."""
    name = shlex.quote(f'"{registry}"')
    return Command(
        f'grep -qsF {name} "${{DOCKER_CONFIG:-$HOME/.docker}}/config.json" && echo had one\n'
        f"docker logout {shlex.quote(registry)} >/dev/null"
    )


def required(inventory: Inventory) -> str:
    """The registry of hosts.yaml. ConfigError if it names none."""
    if not inventory.registry:
        raise ConfigError(
            f"{inventory.path}: names no registry",
            hint="add 'registry: host[:port]' to it; images from public registries need no login",
        )
    return inventory.registry


def login(fleet: Fleet, secrets: Secrets) -> Sequence[Outcome[Result]]:
    """Log every host in: managers ask the registry for digests, the others pull.

    Raises ConfigError, before anything is contacted, if user or password are missing.
    """
    registry = required(fleet.inventory)
    command = login_command(
        registry,
        secrets.require(REGISTRY_USER).reveal(),
        secrets.require(REGISTRY_PASSWORD).reveal(),
    )
    hint = (
        f"check {REGISTRY_USER} and {REGISTRY_PASSWORD} in the vault, and 'registry' in "
        "hosts.yaml; a registry without TLS must be in insecure-registries of the hosts' "
        "/etc/docker/daemon.json"
    )

    return fleet.fan_out(
        fleet.inventory.hosts,
        lambda host: host.check(command, f"docker login {registry}", hint=hint),
    )


def logout(fleet: Fleet) -> Sequence[Outcome[bool]]:
    """Make every host forget its login; the values say who had one."""
    registry = required(fleet.inventory)
    command = logout_command(registry)
    return fleet.fan_out(
        fleet.inventory.hosts,
        lambda host: "had one" in host.check(command, f"docker logout {registry}").stdout,
    )
