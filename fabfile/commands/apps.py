"""inv app.remove."""

from __future__ import annotations

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import command, connected, is_dry, known_project, read_inventory
from fabfile.terminal.deploy_dialog import WAIT_HELP


@command(
    name="remove",
    positional=["name"],
    help={
        "name": "the app, as hosts.yaml's 'apps' calls it",
        "yes": "do not ask before it is removed",
        "wait": WAIT_HELP,
    },
)
def remove(
    ctx: Context, name: str, hosts: str | None = None, yes: bool = False, wait: bool = False
) -> None:
    """Remove an app's stack; its databases and volumes stay."""
    inventory = read_inventory(hosts)
    app = inventory.other_app(name)
    if app is None:
        known = ", ".join(one.name for one in inventory.apps) or "none"
        raise ConfigError(
            f"{name!r} is no app of {inventory.path}", hint=f"its 'apps' are: {known}"
        )

    from fabfile.deploy import app_removal
    from fabfile.deploy.finish_script import Options
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import ask, say

    question = f"This removes {app.stack}: {app.name} no longer answers. Go on?"
    ask(question, yes=yes or is_dry(ctx), refusal=f"{app.stack}: this would remove it")
    with connected(ctx, inventory) as fleet:
        options = Options(f"app.remove {name}", operator.find(), wait=wait)
        removed = app_removal.remove(fleet, app, options, known_project(inventory), say)
    if not removed:
        print(f"{app.stack}: is not there, nothing to remove")
    elif is_dry(ctx):
        print("dry run, nothing was changed")
    else:
        print(
            f"{app.stack}: removed; next: take apps.{name} out of hosts.yaml, then inv "
            f"backup.install{' deploy-proxy' if app.domain else ''}: its databases are no longer "
            "backed up (what is in the bucket stays)"
        )
