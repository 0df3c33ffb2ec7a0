"""inv releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invoke.context import Context

from fabfile.commands.plan import JSON_HELP, STACK_HELP, roles
from fabfile.terminal.command import command, read_inventory, sudo_password

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.releases import Release


@command(help={"stack": STACK_HELP, "json": JSON_HELP})
def releases(ctx: Context, hosts: str = "", stack: str = "", json: bool = False) -> None:
    """List the kept releases, the current one last."""
    inventory = read_inventory(hosts)
    names = [_stack_name(inventory, role) for role in roles(stack, inventory)]

    from fabfile.deploy import releases as kept
    from fabfile.ssh.fleet import connect
    from fabfile.terminal import tables

    with connect(inventory, sudo_password=sudo_password(ctx)) as fleet:
        manager = fleet.first_manager()
        found = {name: kept.read(manager, name) for name in names}
    if json:
        data = {name: [_as_data(release) for release in items] for name, items in found.items()}
        print(tables.to_json({"stacks": data}))
        return
    for name, items in found.items():
        print(_as_table(name, items) if items else f"{name}: no release is kept yet")
        print()


def _stack_name(inventory: Inventory, role: str) -> str:
    return {
        "db": inventory.postgres.stack,
        "app": inventory.app.stack,
        "proxy": inventory.proxy.stack,
        **{one.name: one.stack for one in inventory.apps},
    }[role]


def words(release: Release) -> str:
    """When a release was made, by whom, and of which commit."""
    commit = f", commit {release.commit}" if release.commit else ""
    return f"{_when(release)} by {release.who}{commit}"


def _when(release: Release) -> str:
    return f"{release.at[:10]} {release.at[11:19]} UTC"


def _as_table(name: str, items: list[Release]) -> str:
    from fabfile.terminal.tables import plain, table

    current = items[-1].number
    rows = [
        [
            f"[green]{release.number} (current)[/]" if release.number == current
            else str(release.number),
            _when(release),
            plain(release.who),
            plain(release.commit or "-"),
            plain(", ".join(sorted(set(release.images.values())))),
            plain(release.command) + (f" (as {release.origin})" if release.origin else ""),
        ]
        for release in items
    ]  # fmt: skip
    headers = ["release", "when", "who", "commit", "images", "by"]
    return table(headers, rows, title=name)


def _as_data(release: Release) -> dict[str, Any]:
    return {
        "number": release.number,
        "at": release.at,
        "who": release.who,
        "commit": release.commit,
        "command": release.command,
        "goes_back_to": release.origin or None,
        "images": dict(release.images),
        "secrets": list(release.secrets),
        "compose": dict(release.compose),
    }
