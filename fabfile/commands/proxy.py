"""inv proxy.remove."""

from __future__ import annotations

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import command, connected, is_dry, known_project, read_inventory
from fabfile.terminal.deploy_dialog import WAIT_HELP


@command(name="remove", help={"wait": WAIT_HELP})
def remove(ctx: Context, hosts: str | None = None, wait: bool = False) -> None:
    """Remove the reverse proxy that hosts.yaml no longer names."""
    inventory = read_inventory(hosts)
    if inventory.proxy.hosts:
        raise ConfigError(
            f"{inventory.path}: has a section 'proxy', so the proxy is wanted",
            hint="take out 'proxy' and app.domain, inv deploy-app, then this again",
        )

    from fabfile.deploy import proxy_removal
    from fabfile.deploy.finish_script import Options
    from fabfile.swarm import operator
    from fabfile.terminal.deploy_dialog import say

    with connected(ctx, inventory) as fleet:
        options = Options("proxy.remove", operator.find(), wait=wait)
        removed = proxy_removal.remove(fleet, options, known_project(inventory), say)
    stack = inventory.proxy.stack
    if removed and is_dry(ctx):
        print("dry run, nothing was changed")
    else:
        print(f"{stack}: removed" if removed else f"{stack}: is not there, nothing to remove")
