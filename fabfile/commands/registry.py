"""inv registry.login, registry.logout: access to private images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.terminal.command import (
    command,
    connected,
    is_dry,
    read_inventory,
    read_vault,
    show_error,
)
from fabfile.terminal.deploy_dialog import hosts_on_record

if TYPE_CHECKING:
    from fabfile.ssh.fleet import Outcome

T = TypeVar("T")


@command()
def login(ctx: Context, hosts: str | None = None) -> None:
    """Log every host in to the registry of hosts.yaml."""
    inventory = read_inventory(hosts)

    from fabfile.nodes import registry_login

    name = registry_login.required(inventory)
    secrets = read_vault(inventory)
    with connected(ctx, inventory) as fleet:
        outcomes = hosts_on_record(
            fleet,
            "registry.login",
            lambda: registry_login.login(fleet, secrets),
            lambda _: [f"logged in to {name}"],
        )
    _show(outcomes, lambda _: f"logged in to {name}", dry=is_dry(ctx))


@command()
def logout(ctx: Context, hosts: str | None = None) -> None:
    """Make every host forget its login to the registry."""
    inventory = read_inventory(hosts)

    from fabfile.nodes import registry_login

    name = registry_login.required(inventory)
    words = {True: f"logged out of {name}", False: "had no login, nothing to change"}
    with connected(ctx, inventory) as fleet:
        outcomes = hosts_on_record(
            fleet,
            "registry.logout",
            lambda: registry_login.logout(fleet),
            lambda had: [words[True]] if had else [],
        )
    _show(outcomes, lambda had: words[bool(had)], dry=is_dry(ctx))


def _show(outcomes: Sequence[Outcome[T]], word: Callable[[T | None], str], *, dry: bool) -> None:
    """Show what every host did; exit with the worst failure's code if there is one."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    for outcome in outcomes:
        if not outcome.error and not dry:
            print(f"{outcome.entry.name}: {word(outcome.value)}")
    sys.stdout.flush()
    for error in errors:
        show_error(error)
    if errors:
        raise Exit(code=max(error.exit_code for error in errors))
    if dry:
        print("dry run, nothing was changed")
