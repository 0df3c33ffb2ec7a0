"""The stack of the backup as a container (backup.mode: container), as it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fabfile.backup import container_image, host_settings
from fabfile.backup.host_kit import kit_of
from fabfile.deploy import stacks
from fabfile.deploy.secret_versions import versioned
from fabfile.swarm.docker_commands import data_label

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.deploy.compose_file import Value
    from fabfile.deploy.stacks import Wanted
    from fabfile.vault.reading import Secrets

ROLE = "backup"
SECRETS = (
    "postgres_password",
    "database_settings",
    "files_settings",
    "aws_credentials",
    "pings",
    "identity",
)
NONE = "none"
"""What stands for the name of a secret that is not wanted, until its entry is taken out."""


def backup(inventory: Inventory, secrets: Secrets, folder: Path = stacks.COMPOSE_FOLDER) -> Wanted:
    """The backup's stack. Raises ConfigError as for the others."""
    password = secrets.require("vault_postgres_password").reveal()
    stack, key = inventory.backup.stack, secrets.name_key()
    contents = {"postgres_password": password.encode(), **_contents(inventory, secrets)}
    made = {name: versioned(key, stack, name, content) for name, content in contents.items()}
    image = container_image.image_of(inventory)
    names: dict[str, Value] = {
        "backup_stack": stack,
        "app_stack": inventory.app.stack,
        "backup_image": image,
        "role_label": inventory.role_label,
        "data_label": data_label(inventory.postgres.stack),
        "network": inventory.network,
        **{f"secret_{n}": made[n].version.name if n in made else NONE for n in SECRETS},
    }
    path = folder / "compose-backup.yml"
    found = stacks.wanted_of(stack, ROLE, image, path, names, key, list(made.values()), [password])
    return stacks.labelled(_without(found, set(SECRETS) - set(made)), inventory, secrets)


def _contents(inventory: Inventory, secrets: Secrets) -> dict[str, bytes]:
    """The secrets that are wanted, by name."""
    found: dict[str, bytes] = {}
    kinds = {"db": "database_settings"}
    if inventory.backup.files and inventory.with_role("app"):
        kinds["app"] = "files_settings"
    pings: list[bytes] = []
    for role, name in kinds.items():
        entry = inventory.with_role(role)[0]
        kit = kit_of(entry, inventory)
        found[name] = host_settings.config(entry, inventory, secrets, in_container=True)
        pings.append(host_settings.ping_addresses(kit, inventory, secrets))
        if role == "db" and (identity := host_settings.drill_identity(kit, inventory, secrets)):
            found["identity"] = identity
    if credentials := host_settings.credentials(secrets):
        found["aws_credentials"] = credentials
    if any(pings):
        found["pings"] = b"".join(pings)
    return found


def _without(wanted: Wanted, names: set[str]) -> Wanted:
    """The stack without the secrets of these names, and without what is not to be backed up."""
    compose = dict(wanted.compose)
    services = dict(compose["services"])
    volumes = dict(compose["volumes"])
    if "files_settings" in names:
        del services["files"], volumes["files_state"], volumes["attachments"]
    for key, service in services.items():
        kept = [one for one in service["secrets"] if one["source"] not in names]
        services[key] = {**service, "secrets": kept}
    secrets = {name: value for name, value in compose["secrets"].items() if name not in names}
    return replace(
        wanted, compose={**compose, "services": services, "secrets": secrets, "volumes": volumes}
    )


def volumes(inventory: Inventory) -> tuple[str, ...]:
    """The stack's own volumes, by their names in Docker."""
    return (f"{inventory.backup.stack}_state", f"{inventory.backup.stack}_files_state")
