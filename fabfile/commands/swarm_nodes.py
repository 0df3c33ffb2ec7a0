"""inv swarm.init, swarm.drain, swarm.activate: machines in, out of work, back to work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import command, connected, is_dry, read_inventory
from fabfile.terminal.deploy_dialog import WAIT_HELP

if TYPE_CHECKING:
    from collections.abc import Callable

    from fabfile.nodes.drain import Move

_NODE = "the host as hosts.yaml calls it, or the node as 'docker node ls' does"
_TIMEOUT = "how long to wait, such as 90s or 5m (default: deploy.timeout of the hosts file)"


@command(help={"wait": WAIT_HELP})
def init(ctx: Context, hosts: str | None = None, wait: bool = False) -> None:
    """Make bare hosts a Swarm, with labels and network."""
    inventory = read_inventory(hosts)

    from fabfile.base.units import format_duration
    from fabfile.deploy.finish_script import Options
    from fabfile.nodes.swarm_init import Bootstrap
    from fabfile.swarm import operator

    start = time.monotonic()
    options = Options("swarm.init", operator.find(), wait=wait)
    with connected(ctx, inventory) as fleet:
        changes = Bootstrap(fleet, options, _say).run()
    seconds = format_duration(time.monotonic() - start)
    if is_dry(ctx):
        print("dry run, nothing was changed")
    elif changes:
        print(f"the Swarm of {len(inventory.hosts)} nodes is ready ({seconds}); next: inv deploy")
    else:
        print(f"the Swarm of {len(inventory.hosts)} nodes: nothing to change ({seconds})")


@command(
    positional=["node"],
    help={
        "node": _NODE,
        "force": "drain it even if nothing else can run the database or the proxy",
        "timeout": _TIMEOUT,
        "wait": WAIT_HELP,
    },
)
def drain(
    ctx: Context,
    node: str,
    force: bool = False,
    timeout: str = "",
    wait: bool = False,
    hosts: str | None = None,
) -> None:
    """Take the work off a node, wait until it is gone."""
    _move(
        ctx,
        hosts,
        f"swarm.drain {node}",
        lambda move: move.drain(node, force=force),
        timeout=timeout,
        wait=wait,
    )


@command(positional=["node"], help={"node": _NODE, "timeout": _TIMEOUT, "wait": WAIT_HELP})
def activate(
    ctx: Context, node: str, timeout: str = "", wait: bool = False, hosts: str | None = None
) -> None:
    """Let a node work again, wait until both stacks run."""
    _move(
        ctx,
        hosts,
        f"swarm.activate {node}",
        lambda move: move.activate(node),
        timeout=timeout,
        wait=wait,
    )


def _move(
    ctx: Context,
    hosts: str | None,
    name: str,
    act: Callable[[Move], None],
    *,
    timeout: str,
    wait: bool,
) -> None:
    from fabfile.base.units import parse_duration

    inventory = read_inventory(hosts)
    try:
        seconds = parse_duration(timeout) if timeout else inventory.deploy_timeout
    except ValueError as error:
        raise ConfigError(f"--timeout {timeout}: {error}") from None

    from fabfile.deploy.finish_script import Options
    from fabfile.nodes.drain import Move
    from fabfile.swarm import operator

    options = Options(name, operator.find(), wait=wait)
    with connected(ctx, inventory) as fleet:
        act(Move(fleet, seconds, options, _say))
    if is_dry(ctx):
        print("dry run, nothing was changed")


def _say(line: str) -> None:
    print(line, flush=True)
