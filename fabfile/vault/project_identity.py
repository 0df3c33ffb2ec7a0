"""A project's identity. It is public, and the same on a new Swarm: it is derived from the key that
also makes the names of secret versions, so who has the vault has the identity.
"""

from __future__ import annotations

import hmac

from fabfile.base.errors import ConfigError
from fabfile.config.inventory import Inventory
from fabfile.config.project import Project
from fabfile.vault.reading import Secrets

_ID_DIGITS = 16


def project_of(inventory: Inventory, secrets: Secrets) -> Project:
    """The project of a hosts file and its vault.

    Raises ConfigError if the hosts file says that it is another.
    """
    identity = hmac.digest(secrets.name_key(), b"swarmkeep project", "sha256").hex()[:_ID_DIGITS]
    if inventory.project_id not in ("", identity):
        raise ConfigError(
            f"{inventory.path}: project_id is {inventory.project_id}, but the vault "
            f"{inventory.vault.file} is that of project {identity}",
            hint="name the vault that belongs to this hosts file, or correct project_id",
        )
    return Project(inventory.project, identity)
