"""inv deploy-db, deploy-app, deploy-proxy, deploy."""

from __future__ import annotations

from dataclasses import dataclass

from invoke.context import Context

from fabfile.commands.plan import (
    LEAVE_HELP,
    MOVE_HELP,
    PRUNE_HELP,
    RESOLVE_HELP,
    TAKE_OVER_HELP,
    check_resolve,
    check_role,
    roles,
)
from fabfile.terminal.app_passwords import with_app_passwords
from fabfile.terminal.command import command, connected, is_dry, read_inventory, read_vault
from fabfile.terminal.deploy_dialog import WAIT_HELP, YES_HELP

_HELP = {
    "yes": YES_HELP,
    "wait": WAIT_HELP,
    "prune": PRUNE_HELP,
    "resolve": RESOLVE_HELP,
    "keep-failed": "leave a failed change in place, to look into it",
    "leave-data": LEAVE_HELP,
    "take-over": TAKE_OVER_HELP,
}
APP_HELP = "an app of hosts.yaml's 'apps'; NocoDB where none is named"
_DB_HELP = {**_HELP, "move-data-host": MOVE_HELP}


@dataclass(frozen=True)
class Flags:
    """What the commands take; `yes` answers the question before a restart."""

    yes: bool
    wait: bool
    prune: bool
    resolve: str
    keep_failed: bool
    leave_data: bool
    take_over: bool
    move_data_host: bool = False


@command(notifies="deploy-db", name="deploy-db", help=dict(_DB_HELP))
def deploy_db(
    ctx: Context,
    hosts: str = "",
    yes: bool = False,
    wait: bool = False,
    prune: bool = False,
    resolve: str = "",
    keep_failed: bool = False,
    move_data_host: bool = False,
    leave_data: bool = False,
    take_over: bool = False,
) -> None:
    """Deploy PostgreSQL and wait until it has converged."""
    flags = Flags(yes, wait, prune, resolve, keep_failed, leave_data, take_over, move_data_host)
    _deploy(ctx, hosts, "deploy-db", ("db",), flags)


@command(notifies="deploy-app", name="deploy-app", help={**_HELP, "app": APP_HELP})
def deploy_app(
    ctx: Context,
    app: str = "",
    hosts: str = "",
    yes: bool = False,
    wait: bool = False,
    prune: bool = False,
    resolve: str = "",
    keep_failed: bool = False,
    leave_data: bool = False,
    take_over: bool = False,
) -> None:
    """Deploy NocoDB or another app, wait until it works."""
    flags = Flags(yes, wait, prune, resolve, keep_failed, leave_data, take_over)
    _deploy(ctx, hosts, f"deploy-app {app}".rstrip(), (app or "app",), flags)


@command(
    notifies="deploy-proxy",
    name="deploy-proxy",
    help={name: text for name, text in _HELP.items() if name != "leave-data"},
)
def deploy_proxy(
    ctx: Context,
    hosts: str = "",
    yes: bool = False,
    wait: bool = False,
    prune: bool = False,
    resolve: str = "",
    keep_failed: bool = False,
    take_over: bool = False,
) -> None:
    """Deploy the reverse proxy and wait until it answers."""
    flags = Flags(yes, wait, prune, resolve, keep_failed, False, take_over)
    _deploy(ctx, hosts, "deploy-proxy", ("proxy",), flags)


@command(notifies="deploy", help=dict(_DB_HELP))
def deploy(
    ctx: Context,
    hosts: str = "",
    yes: bool = False,
    wait: bool = False,
    prune: bool = False,
    resolve: str = "",
    keep_failed: bool = False,
    move_data_host: bool = False,
    leave_data: bool = False,
    take_over: bool = False,
) -> None:
    """Deploy all stacks: the database, the proxy, the apps."""
    flags = Flags(yes, wait, prune, resolve, keep_failed, leave_data, take_over, move_data_host)
    _deploy(ctx, hosts, "deploy", (), flags)


def _deploy(ctx: Context, hosts: str, name: str, only: tuple[str, ...], flags: Flags) -> None:
    """Deploy the stacks of these roles; all where none is given."""
    from fabfile.commands.plan import wanted_stack

    check_resolve(flags.resolve)
    inventory = read_inventory(hosts)
    # All stacks are rendered before anything is contacted.
    chosen = tuple(check_role(one, inventory) for one in only) or roles("", inventory)
    secrets = read_vault(inventory)
    secrets = with_app_passwords(inventory, secrets, chosen, write=not is_dry(ctx))
    wanted = [wanted_stack(role, inventory, secrets) for role in chosen]

    from fabfile.deploy import observation, preflight
    from fabfile.deploy.finish_script import Options
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import carry_out, show_round_trips

    options = Options(
        name,
        operator.find(),
        resolve=flags.resolve,
        prune=flags.prune,
        keep_failed=flags.keep_failed,
        wait=flags.wait,
        allowed=preflight.Allowed(
            move_data_host=flags.move_data_host,
            leave_data=flags.leave_data,
            take_over=flags.take_over,
            # A dry run does not bring the database up that the app is checked for.
            database_first=is_dry(ctx) and "db" in chosen,
            together=len(chosen) > 1,
        ),
    )
    with connected(ctx, inventory) as fleet:
        seen: observation.Look | None = observation.look(fleet, wanted)
        for stack in wanted:
            report = carry_out(fleet, stack, options, yes=flags.yes, seen=seen)
            # What was seen stays true only as long as nothing is changed or waited for.
            seen = seen if report.at_rest else None
        show_round_trips(fleet)
