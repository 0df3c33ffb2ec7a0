"""inv secrets.rotate."""

from __future__ import annotations

import sys

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.commands.plan import check_role
from fabfile.terminal.command import (
    ask_secret,
    command,
    connected,
    is_dry,
    read_inventory,
    read_vault,
)
from fabfile.terminal.deploy_dialog import WAIT_HELP, say


@command(help={"wait": WAIT_HELP, "app": "an app of hosts.yaml's 'apps'; NocoDB without one"})
def rotate(ctx: Context, app: str = "", hosts: str | None = None, wait: bool = False) -> None:
    """Give the database role of an app a new password."""
    import time

    from fabfile.base.units import format_duration
    from fabfile.deploy.finish_script import Options
    from fabfile.rotation.rotate import Rotation
    from fabfile.rotation.rotating_app import RotatingApp
    from fabfile.rotation.vault_entries import RotatingVault
    from fabfile.swarm import operator
    from fabfile.terminal.mark_dialog import set_mark

    start = time.monotonic()
    inventory = read_inventory(hosts)
    role = check_role(app, inventory) if app else "app"
    if role in ("db", "proxy"):
        raise ConfigError(f"{role!r} is no app", hint="name an app of hosts.yaml, or none")
    rotating = RotatingApp(inventory, inventory.other_app(role))
    ask = ask_secret if sys.stdin.isatty() else None
    vault = RotatingVault(inventory.vault, ask, rotating.entry)
    options = Options(f"secrets.rotate{rotating.words}", operator.find(), wait=wait)
    user = rotating.user
    print(f"rotating the password of {user}: checking", flush=True)
    with connected(ctx, inventory) as fleet:
        set_mark(fleet, "secrets.rotate", say)
        rotated = Rotation(fleet, rotating, vault, options, say).run()
    if rotated is None or is_dry(ctx):
        print("dry run: could be rotated; nothing was changed")
        return
    if rotated.release:
        say(f"{rotating.stack}: kept as release {rotated.release}")
    print(f"rotated the password of {user} ({format_duration(time.monotonic() - start)})")
    print(f"next: commit {vault.file} and push it: until then nobody else has the new password")
    if rotating.other:
        return
    stack = inventory.postgres.stack
    if rotated.asked:
        print(
            f"warning: PostgreSQL asks for a password on its own socket, and the backup reads it "
            f"from the secret of {stack}, which is the old one: backups fail until you have run: "
            "inv deploy-db"
        )
    else:
        print(
            f"{stack} still has the old password as its secret, which nothing reads once the "
            "database exists; the next inv deploy-db exchanges it and restarts the database"
        )
    if inventory.backup.mode == "container":
        from fabfile.terminal import backup_container_dialog

        # It reaches PostgreSQL over the network, by the new password from now on.
        with connected(ctx, inventory) as fleet:
            backup_container_dialog.install(fleet, inventory, read_vault(inventory))
