"""The stack of an application beside NocoDB, as it should be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from fabfile.base.errors import ConfigError
from fabfile.deploy import behind_proxy, stacks
from fabfile.deploy import compose_file as compose
from fabfile.deploy.secret_versions import SecretContent, versioned

if TYPE_CHECKING:
    from fabfile.config.apps import OtherApp
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.stacks import Wanted
    from fabfile.vault.reading import Secrets

PASSWORD, URL = "database_password", "database_url"
"""The secrets that a compose file may declare, by the names ${secret_...}: the bare password, or
postgresql://user:password@host:5432/database.
"""


def other_app(app: OtherApp, inventory: Inventory, secrets: Secrets) -> Wanted:
    """The app's stack. Raises ConfigError for a missing vault entry or a broken compose file."""
    password = secrets.require(app.password_entry).reveal()
    made = _secrets(app, inventory, secrets.name_key(), password)
    names: dict[str, compose.Value] = {
        "stack": app.stack,
        "image": app.image,
        "replicas": app.replicas,
        "public_url": app.public_url or None,
        "role_label": inventory.role_label,
        "network": inventory.network,
        "db_host": inventory.postgres.service,
        "db_name": app.databases[0],
        "db_user": app.user,
        **{f"secret_{name}": one.version.name for name, one in made.items()},
    }
    declared = _declared(app)
    used = [made[name] for name in made if f"${{secret_{name}}}" in declared]
    if not used:
        raise ConfigError(
            f"{app.compose}: declares no secret with the database's password",
            hint=f"in its 'secrets:' section write an external secret named ${{secret_{PASSWORD}}} "
            f"or ${{secret_{URL}}}: docs/apps.md",
        )
    hidden = [password, quote(password, safe="")]
    wanted = stacks.wanted_of(
        app.stack, app.name, app.image, app.compose, names, secrets.name_key(), used, hidden
    )
    _check_parts(app, wanted)
    if app.domain:
        wanted = replace(
            wanted, compose=behind_proxy.behind(wanted.compose, app.service, inventory.proxy)
        )
    return replace(stacks.labelled(wanted, inventory, secrets), role_password=password)


def _secrets(
    app: OtherApp, inventory: Inventory, key: bytes, password: str
) -> dict[str, SecretContent]:
    """Both secrets by name."""
    host = inventory.postgres.service
    user, database = quote(app.user, safe=""), quote(app.databases[0], safe="")
    url = f"postgresql://{user}:{quote(password, safe='')}@{host}:5432/{database}"
    return {
        name: versioned(key, app.stack, name, text.encode())
        for name, text in ((PASSWORD, password), (URL, url))
    }


def _declared(app: OtherApp) -> set[str]:
    """The names of the secrets that its compose file declares, as they stand there."""
    entries = (compose.load(app.compose).get("secrets") or {}).values()
    return {str((entry or {}).get("name")) for entry in entries}


def _check_parts(app: OtherApp, wanted: Wanted) -> None:
    """Raise ConfigError where hosts.yaml names what the compose file does not have."""
    services, volumes = wanted.compose["services"], wanted.compose.get("volumes") or {}
    if app.service not in services:
        raise ConfigError(
            f"{app.compose}: has no service {app.service!r}, which apps.{app.name} names",
            hint=f"set apps.{app.name}.service to one of: {', '.join(services)}",
        )
    for volume in app.volumes:
        name = str((volumes.get(volume) or {}).get("name", ""))
        if name != app.volume_name(volume):
            raise ConfigError(
                f"{app.compose}: has no volume {volume!r} named {app.volume_name(volume)}",
                hint=f"in its 'volumes:' section write {volume}: with name: ${{stack}}_{volume}",
            )
