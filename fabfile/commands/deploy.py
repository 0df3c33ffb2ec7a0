"""inv deploy-db, deploy-app, deploy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.commands.edge import command, is_dry, read_inventory, read_vault, sudo_password

if TYPE_CHECKING:
    from fabfile.deploy import Report
    from fabfile.inventory import Inventory
    from fabfile.stacks import Wanted
    from fabfile.transport import Fleet
    from fabfile.vault import Secrets

_HELP = {
    "keep-failed": "leave a failed change in place, to look into it",
    "move-data-host": "let PostgreSQL start on another node, without the data of the old one",
}


@command(name="deploy-db", help={key: _HELP[key] for key in ("keep-failed", "move-data-host")})
def deploy_db(
    ctx: Context, hosts: str = "", keep_failed: bool = False, move_data_host: bool = False
) -> None:
    """Deploy PostgreSQL and wait until it has converged."""
    _deploy(ctx, hosts, ("db",), keep_failed, move_data_host)


@command(name="deploy-app", help={"keep-failed": _HELP["keep-failed"]})
def deploy_app(ctx: Context, hosts: str = "", keep_failed: bool = False) -> None:
    """Deploy NocoDB and wait until it answers from its database."""
    _deploy(ctx, hosts, ("app",), keep_failed, False)


@command(help={key: _HELP[key] for key in ("keep-failed", "move-data-host")})
def deploy(
    ctx: Context, hosts: str = "", keep_failed: bool = False, move_data_host: bool = False
) -> None:
    """Deploy both stacks, the database first."""
    _deploy(ctx, hosts, ("db", "app"), keep_failed, move_data_host)


def _deploy(
    ctx: Context, hosts: str, roles: tuple[str, ...], keep_failed: bool, move_data_host: bool
) -> None:
    inventory = read_inventory(hosts)
    secrets = read_vault(inventory)
    # All stacks are rendered before anything is contacted.
    wanted = [_wanted(role, inventory, secrets) for role in roles]

    from fabfile.deploy import Deployment
    from fabfile.transport import connect

    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        for stack in wanted:
            start = time.monotonic()
            print(f"{stack.name}: checking", flush=True)
            deployment = Deployment(fleet, stack, _say, keep_failed, move_data_host)
            report = deployment.run()
            if stack.role == "app" and not is_dry(ctx):
                _probe(fleet, inventory)
            _print_report(report, time.monotonic() - start, is_dry(ctx))


def _wanted(role: str, inventory: Inventory, secrets: Secrets) -> Wanted:
    from fabfile import stacks

    return (
        stacks.database(inventory, secrets)
        if role == "db"
        else stacks.application(inventory, secrets)
    )


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _probe(fleet: Fleet, inventory: Inventory) -> None:
    from fabfile.preflight import observe
    from fabfile.probe import await_app

    await_app(fleet, inventory, observe(fleet.first_manager()))
    _say(f"{inventory.app.stack}: NocoDB answers from its database")


def _print_report(report: Report, seconds: float, dry: bool) -> None:
    from fabfile.units import format_duration

    for name, outcome in report.services.items():
        _say(f"{name}: {outcome}")
    if dry:
        verdict = "dry run, nothing was changed"
    elif report.changed:
        verdict = "converged"
    else:
        verdict = "converged, nothing to change"
    print(f"{report.stack}: {verdict} ({format_duration(seconds)})", flush=True)
