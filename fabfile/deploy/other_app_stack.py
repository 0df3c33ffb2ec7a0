"""The stack of an application beside NocoDB, as it should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
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


DRILL_HOST = "127.0.0.1"
"""Where a drilled app finds PostgreSQL: they share a network that nobody else is in."""
DRILL_PASSWORD = "drill"  # noqa: S105 - of no server that anybody else can reach
"""What a throwaway PostgreSQL takes: it trusts whoever can reach it."""


def other_app(app: OtherApp, inventory: Inventory, secrets: Secrets) -> Wanted:
    """The app's stack. Raises ConfigError for a missing vault entry or a broken compose file."""
    password = secrets.require(app.password_entry).reveal()
    wanted = _filled(app, inventory, secrets, inventory.postgres.service, password)
    if app.domain:
        wanted = replace(
            wanted,
            compose=behind_proxy.other_app_behind(wanted.compose, app.service, inventory.proxy),
        )
    return replace(stacks.labelled(wanted, inventory, secrets), role_password=password)


def drilled(app: OtherApp, inventory: Inventory, secrets: Secrets) -> Wanted:
    """The app's stack as a drill wants it, with nothing that would lead to the live database.

    Raises as `other_app`.
    """
    return _filled(app, inventory, secrets, DRILL_HOST, DRILL_PASSWORD)


def _filled(
    app: OtherApp, inventory: Inventory, secrets: Secrets, host: str, password: str
) -> Wanted:
    """Its compose file, filled in, for a PostgreSQL at this host that takes this password."""
    made = _secrets(app, host, secrets.name_key(), password)
    names: dict[str, compose.Value] = {
        "stack": app.stack,
        "image": app.image,
        "replicas": app.replicas,
        "public_url": app.public_url or None,
        "role_label": inventory.role_label,
        "network": inventory.network,
        "db_host": host,
        "db_name": app.databases[0],
        "db_user": app.user,
        **{f"secret_{name}": one.version.name for name, one in made.items()},
    }
    declared = _mounted(app)
    used = [made[name] for name in made if f"${{secret_{name}}}" in declared]
    if not used:
        raise ConfigError(
            f"{app.compose}: no service has a secret with the database's password",
            hint="in its top-level 'secrets:' write an external secret named "
            f"${{secret_{PASSWORD}}} or ${{secret_{URL}}}, and name it in the service's: "
            "docs/apps.md",
        )
    hidden = [password, quote(password, safe="")]
    wanted = stacks.wanted_of(
        app.stack, app.name, app.image, app.compose, names, secrets.name_key(), used, hidden
    )
    _check_parts(app, wanted)
    return wanted


def _secrets(app: OtherApp, host: str, key: bytes, password: str) -> dict[str, SecretContent]:
    """Both secrets by name."""
    user, database = quote(app.user, safe=""), quote(app.databases[0], safe="")
    url = f"postgresql://{user}:{quote(password, safe='')}@{host}:5432/{database}"
    return {
        name: versioned(key, app.stack, name, text.encode())
        for name, text in ((PASSWORD, password), (URL, url))
    }


def _mounted(app: OtherApp) -> set[str]:
    """The names, as they stand in its compose file, of the secrets that its services have.

    Raises ConfigError for a file whose sections are not of the form that Docker wants.
    """
    if not app.compose.is_file():
        raise ConfigError(
            f"{app.compose}: no such compose file",
            hint=f"write it, or correct apps.{app.name}.compose: docs/apps.md",
        )
    data = compose.load(app.compose)
    for key in ("services", "secrets", "volumes", "networks", "configs"):
        section = data.get(key) or {}
        if not isinstance(section, dict):
            raise _malformed(app, key)
        for name, entry in section.items():
            if not (isinstance(entry, dict) or (entry is None and key != "services")):
                raise _malformed(app, f"{key}.{name}")
    secrets = {key: str((entry or {}).get("name")) for key, entry in _entries(data, "secrets")}
    mounted = set()
    for key, service in _entries(data, "services"):
        for item in service.get("secrets") or ():
            source = item.get("source") if isinstance(item, dict) else item
            if source not in secrets:
                raise ConfigError(
                    f"{app.compose}: services.{key}: its secret {source!r} is not declared",
                    hint="declare it in the top-level 'secrets:'",
                )
            mounted.add(secrets[source])
    return mounted


def _entries(data: dict[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    return (data.get(key) or {}).items()


def _malformed(app: OtherApp, where: str) -> ConfigError:
    return ConfigError(
        f"{app.compose}: {where} is not a mapping (key: value)",
        hint="https://docs.docker.com/reference/compose-file/ says what belongs there",
    )


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
