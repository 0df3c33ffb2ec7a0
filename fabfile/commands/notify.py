"""inv notify.test."""

from __future__ import annotations

from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.terminal.command import command, read_inventory, read_vault


@command(name="test")
def send_one_of_each(_ctx: Context, hosts: str | None = None) -> None:
    """Send one notification of each kind to every address."""
    inventory = read_inventory(hosts)
    if not inventory.notify.on:
        raise ConfigError("hosts.yaml has no notify", hint="docs/monitoring.md shows it")

    from fabfile.monitoring.notifications import FAILURE, RECOVERED, SUCCESS, Event, Notifier

    notifier = Notifier(inventory, read_vault(inventory))
    failed: set[str] = set()
    for kind in (FAILURE, RECOVERED, SUCCESS):
        missed = notifier.send(Event("notify.test", kind, f"this is a test of {kind!r}"))
        print(f"{kind}: sent" if not missed else f"{kind}: not taken by {', '.join(missed)}")
        failed |= set(missed)
    if failed:
        raise SwarmkeepError(
            f"not every address took the notification: {', '.join(sorted(failed))}",
            hint="check vault_notify_urls, and that this machine reaches the service",
        )
