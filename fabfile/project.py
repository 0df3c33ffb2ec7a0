"""Which project something belongs to: several live on one Swarm and in one bucket.

A project's identity is public, and is the same on a new Swarm: it is derived from the key that
also makes the names of secret versions, so who has the vault has the identity.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabfile.errors import ConfigError

if TYPE_CHECKING:
    from fabfile.inventory import Inventory
    from fabfile.vault import Secrets

_ID_DIGITS = 16


@dataclass(frozen=True)
class Project:
    """A project's name ("" for the one without) and identity ("" where it is not known)."""

    name: str
    id: str

    @property
    def label(self) -> str:
        """What labels in the Swarm say: "NAME:ID", without a name the ID alone."""
        return f"{self.name}:{self.id}" if self.name else self.id

    def is_another(self, project_id: str) -> bool:
        """Whether this is not the project of an identity. Not so where either is not known."""
        return bool(self.id and project_id) and self.id != project_id

    def __str__(self) -> str:
        name = f"project {self.name}" if self.name else "the project without a name"
        return f"{name} ({self.id})" if self.id else name


def from_label(text: str) -> Project:
    """The project that a label in the Swarm names."""
    name, _, identity = text.rpartition(":")
    return Project(name, identity)


def of(inventory: Inventory, secrets: Secrets) -> Project:
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
