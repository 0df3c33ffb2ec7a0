"""Passwords of the apps' roles: made when an app is first deployed, and kept in the vault."""

from __future__ import annotations

import secrets as random
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from fabfile.base.secret import Secret

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.vault.reading import Secrets

_BYTES = 32


def with_app_passwords(
    inventory: Inventory, secrets: Secrets, roles: Collection[str], *, write: bool
) -> Secrets:
    """The vault with a password for each of these apps; others are left alone.

    One that is missing is made, and with `write` kept in the file before it is used anywhere, if
    the apps' stacks can be rendered with it. Raises ConfigError if not, or if the file cannot be
    changed.
    """
    missing = [
        app.password_entry
        for app in inventory.apps
        if app.name in roles and secrets.get(app.password_entry) is None
    ]
    if not missing:
        return secrets
    made = {name: Secret(random.token_urlsafe(_BYTES)) for name in missing}
    if not write:
        # Not among what programs read.
        print(f"{secrets.file}: {', '.join(missing)} would be made", file=sys.stderr)
        return secrets.with_entries(made)
    from fabfile.deploy import other_app_stack
    from fabfile.terminal.command import ask_secret, read_vault
    from fabfile.vault import editing

    for app in (one for one in inventory.apps if one.password_entry in made):
        other_app_stack.other_app(app, inventory, secrets.with_entries(made))

    document = editing.open_document(inventory.vault, ask_secret if sys.stdin.isatty() else None)
    clear = document.clear.reveal()
    for name, password in made.items():
        clear = editing.set_entry(replace(document, clear=Secret(clear)), name, password.reveal())
    document.save(clear)
    for name in missing:
        print(f"{secrets.file}: set {name}; next: commit the file")
    return read_vault(inventory)
