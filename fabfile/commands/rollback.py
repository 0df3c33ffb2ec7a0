"""inv rollback."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.commands.plan import check_role, wanted_stack
from fabfile.commands.releases import words
from fabfile.terminal.command import command, is_dry, read_inventory, read_vault, sudo_password
from fabfile.terminal.deploy_dialog import WAIT_HELP, YES_HELP

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.stacks import Wanted

_TO_HELP = "number of the release to go back to; else the one before the current one"
_SECRETS_HELP = "with the vault's secrets of today, where those of the release are gone"
_PRUNE_HELP = "remove services of the stack that the release did not have"


@command(
    notifies="rollback",
    positional=["stack"],
    help={
        "stack": "db, app, proxy or an app's name",
        "to": _TO_HELP,
        "with-current-secrets": _SECRETS_HELP,
        "prune": _PRUNE_HELP,
        "yes": YES_HELP,
        "wait": WAIT_HELP,
        "keep-failed": "leave a failed change in place, to look into it",
    },
)
def rollback(
    ctx: Context,
    stack: str,
    hosts: str = "",
    to: str = "",
    with_current_secrets: bool = False,
    prune: bool = False,
    yes: bool = False,
    wait: bool = False,
    keep_failed: bool = False,
) -> None:
    """Go back to an earlier release of one stack."""
    number = _number(to)
    inventory = read_inventory(hosts)
    role = check_role(stack, inventory)
    secrets = read_vault(inventory)
    present = wanted_stack(role, inventory, secrets)

    from fabfile.deploy import observation
    from fabfile.deploy import releases as kept
    from fabfile.deploy.finish_script import Options
    from fabfile.deploy.stacks import labelled, main_service
    from fabfile.ssh.fleet import connect
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import carry_out, show_round_trips

    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        release = kept.choose(kept.read(fleet.first_manager(), present.name), present.name, number)
        print(f"{present.name}: going back to release {release.number} ({words(release)})")
        wanted = kept.as_wanted(release, main_service(inventory, role), present.hidden)
        other = inventory.other_app(role)
        if role == "app" or other:
            behind = bool(other.domain if other else inventory.proxy.hosts)
            _check_way_in(inventory, release.number, wanted, behind=behind)
        wanted = labelled(wanted, inventory, secrets)
        wanted = replace(kept.with_shown(wanted, present), role_password=present.role_password)
        if with_current_secrets:
            wanted = kept.with_secrets(wanted, release, present.secrets)
        seen = observation.look(fleet, [wanted])
        kept.check_secrets(wanted, release, seen.cluster)
        options = Options(
            f"rollback {role} --to {release.number}",
            operator.find(),
            keep_failed=keep_failed,
            prune=prune,
            wait=wait,
            goes_back_to=release.origin or release.number,
        )
        report = carry_out(fleet, wanted, options, yes=yes, seen=seen)
        show_round_trips(fleet)
    if report.changed:
        print(
            "hosts.yaml, the vault and compose/ are as they were: the next deploy brings their "
            "state back (inv plan shows it)"
        )


def _check_way_in(inventory: Inventory, number: int, wanted: Wanted, *, behind: bool) -> None:
    """Raise ConfigError where the release has another way in than the app is to have now."""
    from fabfile.deploy.behind_proxy import is_behind

    if is_behind(wanted.compose, inventory.proxy) == behind:
        return
    was, now = ("stood behind the proxy", "does not")
    if behind:
        was, now = ("published a port of its own", "stands behind the proxy")
    raise ConfigError(
        f"{wanted.name}: in release {number} it {was}, and now it {now}: its clients would not "
        "find it",
        hint="choose a later release with --to (inv releases), or change 'proxy' and the app's "
        "domain in hosts.yaml first",
    )


def _number(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal():
        raise ConfigError(f"--to: {text!r} is not a release's number", hint="see: inv releases")
    return int(text)
