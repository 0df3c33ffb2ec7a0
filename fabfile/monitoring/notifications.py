"""Notifications of how a command ended, to the addresses of the vault, by apprise.

A notification that cannot be sent is a warning, never a command's result. "Recovered" is told once,
when a command succeeds that had failed before: the managers keep which have, beside the audit log.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.ssh.fleet import Fleet, connect
from fabfile.ssh.remote_command import Command
from fabfile.vault.reading import NOTIFY_URLS

if TYPE_CHECKING:
    from apprise import Apprise

    from fabfile.config.inventory import Inventory
    from fabfile.vault.reading import Secrets

FAILURE, RECOVERED, SUCCESS = "failure", "recovered", "success"
MOST = 3000
"""Characters of a message: more than some services take is cut by apprise."""


@dataclass(frozen=True)
class Event:
    """How a command has ended: `kind` is FAILURE, RECOVERED or SUCCESS."""

    command: str
    kind: str
    text: str


@dataclass(frozen=True)
class Address:
    """One address. `name` tells which without giving it away: its number and its scheme."""

    name: str
    url: Secret


def addresses(secrets: Secrets) -> list[Address]:
    """The addresses of the vault. ConfigError if there are none, or apprise is not installed."""
    if importlib.util.find_spec("apprise") is None:
        raise ConfigError(
            "notify needs apprise, which is not installed",
            hint="pip install '.[notify]' in the repository, or: pip install apprise",
        )
    entry = secrets.get(NOTIFY_URLS)
    if entry is None:
        raise ConfigError(
            f"hosts.yaml has notify, and the vault has no {NOTIFY_URLS}",
            hint=f"inv secrets.set {NOTIFY_URLS} (several: with spaces between them)",
        )
    found = entry.reveal().split()
    return [
        Address(f"{number} ({url.partition(':')[0]})", Secret(url))
        for number, url in enumerate(found, 1)
    ]


class Notifier:
    """Tells the addresses of one project how its commands end. Raises ConfigError as `addresses`,
    and for an address that apprise cannot use.
    """

    def __init__(self, inventory: Inventory, secrets: Secrets) -> None:
        self.inventory = inventory
        self._receivers = [(one, _receiver(one)) for one in addresses(secrets)]
        self._secrets = secrets

    def ended(self, command: str, error: SwarmkeepError | None) -> list[str]:
        """Tell how a command has ended, if that is to be told. Returns who did not take it.

        `command` is with what it was about, such as "rollback app": that another of them
        succeeds is no recovery.
        """
        before = self._exchange(command, "ok" if error is None else "failed")
        kind = RECOVERED if "failed" in before else SUCCESS
        if error is not None:
            kind = FAILURE
        wanted = self.inventory.notify.on
        if kind not in wanted and "always" not in wanted:
            return []
        return self.send(Event(command, kind, _text(error)))

    def send(self, event: Event) -> list[str]:
        """Send to every address, and return the names of those that did not take it."""
        from apprise import NotifyType

        types = {FAILURE: NotifyType.FAILURE, RECOVERED: NotifyType.SUCCESS}
        project = self.inventory.project or self.inventory.postgres.stack
        title = f"{project}: {event.command}: {event.kind}"
        failed = []
        for address, receiver in self._receivers:
            taken = False
            # Whatever a service's plugin raises: it is no reason for the command to fail.
            with suppress(Exception):
                taken = bool(
                    receiver.notify(
                        title=title,
                        body=self._without_secrets(event.text)[:MOST],
                        notify_type=types.get(event.kind, NotifyType.INFO),
                    )
                )
            if not taken:
                failed.append(address.name)
        return failed

    def _without_secrets(self, text: str) -> str:
        for name in self._secrets.names():
            with suppress(ConfigError):
                secret = self._secrets.get(name)
                if secret is not None and len(secret.reveal()) > 3:
                    text = text.replace(secret.reveal(), "***")
        return text

    def _exchange(self, command: str, state: str) -> set[str]:
        """Note on every manager how a command ended, and return how it did before that.

        Where no manager can be asked nothing is known: then a failure is told all the same.
        """
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", command)
        file = f"/var/log/swarmkeep-notify{self.inventory.named('')}.{name}"
        path = shlex.quote(file)
        script = (
            f"umask 077; cat {path} 2>/dev/null; printf %s {state} >{path}.$$ && "
            f"mv {path}.$$ {path}"
        )
        with suppress(SwarmkeepError), connect(self.inventory) as fleet:
            return _ask(fleet, script)
        return set()


def _ask(fleet: Fleet, script: str) -> set[str]:
    outcomes = fleet.fan_out(
        fleet.inventory.managers(), lambda host: host.check(Command(script), "noting the outcome")
    )
    return {outcome.value.stdout.strip() for outcome in outcomes if outcome.value}


def _receiver(address: Address) -> Apprise:
    from apprise import Apprise

    # It logs addresses; what a person needs to know is said by us.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    receiver = Apprise()
    if not receiver.add(address.url.reveal()):
        raise ConfigError(
            f"the vault's {NOTIFY_URLS}: address {address.name} is not known to apprise",
            hint="https://appriseit.com/services/ lists them; correct it: "
            f"inv secrets.set {NOTIFY_URLS}",
        )
    return receiver


def _text(error: SwarmkeepError | None) -> str:
    if error is None:
        return "ok"
    lines: Sequence[str] = (error.message, *error.details)
    return "\n".join([*lines, f"next: {error.hint}"] if error.hint else lines)
