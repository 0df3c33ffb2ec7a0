"""inv status."""

from __future__ import annotations

from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.base.errors import FAILED
from fabfile.commands.backup import metrics_file
from fabfile.terminal.command import command, read_inventory, sudo_password


@command(
    help={
        "json": "print one JSON document for programs",
        "prom": "also write it as metrics into this .prom file",
    }
)
def status(ctx: Context, hosts: str = "", json: bool = False, prom: str = "") -> None:
    """Show nodes and services; exit code 1 if one is amiss."""
    inventory = read_inventory(hosts)
    file = metrics_file(prom)

    from fabfile.deploy.observation import observe_any
    from fabfile.ssh.fleet import connect
    from fabfile.swarm.proxy_health import look_at_all
    from fabfile.swarm.status import summarise
    from fabfile.terminal import tables

    with connect(inventory, sudo_password=sudo_password(ctx)) as fleet:
        cluster = observe_any(fleet)[1]
        names = inventory.domains if file and inventory.proxy.hosts else ()
        proxies = {name: look_at_all(fleet, name) for name in names}
    summary = summarise(inventory, cluster)
    print(tables.to_json(summary) if json else _text(summary, cluster.now))
    if file:
        from fabfile.monitoring.metrics import write_status

        write_status(file, inventory, summary, cluster.now, proxies)
    if not summary["ok"]:
        raise Exit(code=FAILED)


def _text(summary: dict[str, Any], now: str) -> str:
    from fabfile.terminal import tables

    parts = [
        tables.table(["node", "swarm", "role", "state"], [_node(n) for n in summary["nodes"]]),
        tables.table(
            ["service", "tasks", "image", "on", "since", "last error"],
            [_service(s, now) for s in summary["services"]],
        ),
    ]
    parts += [f"{stack}: not deployed" for stack in summary["missing_stacks"]]
    if not summary["network"]["exists"]:
        parts.append(f"network {summary['network']['name']}: does not exist")
    return "\n\n".join(parts)


def _node(node: dict[str, Any]) -> list[str]:
    from fabfile.terminal.tables import plain

    role = plain(node["role"]) + (" (data)" if node["holds_data"] else "")
    if node["host"] and node["role"] != node["role_wanted"]:
        role = f"[yellow]{role or 'none'}, wanted {node['role_wanted'] or 'none'}[/]"
    state = f"{node['state']}/{node['availability']}".rstrip("/")
    colour = "green" if state == "ready/active" else "red"
    return [
        plain(node["name"]),
        "manager" if node["manager"] else "worker",
        role,
        f"[{colour}]{plain(state)}[/]",
    ]


def _service(service: dict[str, Any], now: str) -> list[str]:
    from fabfile.swarm.status import age
    from fabfile.terminal.tables import plain

    colour = "green" if service["converged"] else "red"
    tasks = f"[{colour}]{service['running']}/{service['wanted']}[/]"
    if not service["converged"]:
        tasks += f" {plain(service['doing'])}"
    error = ""
    if service["last_error"]:
        error = f"{plain(service['last_error'])} ({age(service['last_error_at'], now)} ago)"
    return [
        plain(service["name"]),
        tasks,
        plain(service["image"]),
        plain(", ".join(service["nodes"])),
        age(service["since"], now) if service["since"] else "-",
        error,
    ]
