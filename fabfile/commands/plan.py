"""inv plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.base.errors import ConfigError
from fabfile.terminal.app_passwords import with_app_passwords
from fabfile.terminal.command import command, read_inventory, read_vault, sudo_password

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.stacks import Wanted
    from fabfile.vault.reading import Secrets

CHANGES = 5
"""Exit code of a plan that has something to do."""
STACK_HELP = "db, app, proxy or an app's name; all where it is not given"
PRUNE_HELP = "remove services of the stack that are no longer in its compose file"
MOVE_HELP = "let PostgreSQL start on another node, without the data of the old one"
LEAVE_HELP = "go on even if data stays behind: an empty database, other attachments"
TAKE_OVER_HELP = "take over stacks and files that another project is named on"
RESOLVE_HELP = "when the registry is asked for digests: always, changed or never"
JSON_HELP = "print one JSON document for programs"


@command(
    help={
        "stack": STACK_HELP,
        "prune": PRUNE_HELP,
        "resolve": RESOLVE_HELP,
        "move-data-host": MOVE_HELP,
        "leave-data": LEAVE_HELP,
        "take-over": TAKE_OVER_HELP,
        "json": JSON_HELP,
    }
)
def plan(
    ctx: Context,
    hosts: str = "",
    stack: str = "",
    prune: bool = False,
    resolve: str = "",
    move_data_host: bool = False,
    leave_data: bool = False,
    take_over: bool = False,
    json: bool = False,
) -> None:
    """Show what a deploy would change; exit code 5 if anything."""
    check_resolve(resolve)
    inventory = read_inventory(hosts)
    chosen = roles(stack, inventory)
    secrets = with_app_passwords(inventory, read_vault(inventory), chosen, write=False)
    wanted = [wanted_stack(role, inventory, secrets) for role in chosen]

    from fabfile.deploy import observation, preflight
    from fabfile.deploy.planning import make_plan
    from fabfile.ssh.fleet import connect
    from fabfile.terminal import plan_table, tables

    both = len(wanted) > 1
    allowed = preflight.Allowed(move_data_host, leave_data, take_over, both, both)
    with connect(inventory, sudo_password=sudo_password(ctx)) as fleet:
        seen = observation.look(fleet, wanted)
        plans = [
            make_plan(
                inventory,
                one,
                seen,
                allowed,
                resolve=resolve,
                prune=prune,
            )
            for one in wanted
        ]
        trips = fleet.round_trips
    redact = replace(wanted[0], hidden=tuple(text for one in wanted for text in one.hidden)).redact
    if json:
        data = plan_table.to_data(plans, redact) | {"round_trips": trips}
        print(tables.to_json(data))
    else:
        print(plan_table.to_text(plans, redact, all_services=True))
        print(f"\nplan: {plan_table.summary(plans)}")
    if any(one.changes for one in plans):
        raise Exit(code=CHANGES)


def roles(stack: str, inventory: Inventory) -> tuple[str, ...]:
    """Given the --stack flag, return the roles it means, in the order of a deploy.

    Raises ConfigError.
    """
    if not stack:
        # The app joins the proxy's network.
        proxy = ("proxy",) if inventory.proxy.hosts else ()
        return ("db", *proxy, "app", *(one.name for one in inventory.apps))
    return (check_role(stack, inventory),)


def check_role(stack: str, inventory: Inventory) -> str:
    """Given what a user calls a stack, return its role. Raises ConfigError."""
    known = ("db", "app", "proxy", *(one.name for one in inventory.apps))
    if stack not in known:
        raise ConfigError(
            f"{stack!r} is no stack of ours", hint=f"say {', '.join(known[:-1])} or {known[-1]}"
        )
    return stack


def check_resolve(resolve: str) -> None:
    """Raise ConfigError unless this is a value of the --resolve flag, or "" for none."""
    from fabfile.config.inventory import RESOLVE_IMAGE

    if resolve and resolve not in RESOLVE_IMAGE:
        raise ConfigError(
            f"--resolve: {resolve!r} is not one of {', '.join(RESOLVE_IMAGE)}",
            hint="without the flag, deploy.resolve_image of the hosts file counts",
        )


def wanted_stack(role: str, inventory: Inventory, secrets: Secrets) -> Wanted:
    """The stack of a role as hosts.yaml, the vault and its compose file want it."""
    from fabfile.deploy import other_app_stack, proxy_stack, stacks

    if app := inventory.other_app(role):
        return other_app_stack.other_app(app, inventory, secrets)
    make = {"db": stacks.database, "app": stacks.application, "proxy": proxy_stack.proxy}
    return make[role](inventory, secrets)
