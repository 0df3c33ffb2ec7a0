"""Which project something belongs to: several live on one Swarm and in one bucket.

A project has a name, which may be empty, and an identity (vault/project_identity.py).
"""

from __future__ import annotations

from dataclasses import dataclass


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
