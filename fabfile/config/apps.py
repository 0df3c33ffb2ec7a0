"""What hosts.yaml says of the applications beside NocoDB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HealthRequest:
    """The HTTP request that tells whether an app works, databases and all."""

    path: str
    status: int = 200
    """The answer's status that says so."""


@dataclass(frozen=True)
class OtherApp:
    """An application beside NocoDB: a stack of its own with databases in the same PostgreSQL."""

    name: str
    """What commands call it: `inv deploy-app NAME`."""
    stack: str
    compose: Path
    service: str
    """Its main service, by its name in the compose file."""
    image: str
    replicas: int
    port: int
    """Where it listens in its container."""
    databases: tuple[str, ...]
    """Each of them is its role's own; the first one is ${db_name} in its compose file."""
    user: str
    """Its role in PostgreSQL."""
    volumes: tuple[str, ...] = ()
    """The volumes that are backed up, by their names in the compose file."""
    health: HealthRequest | None = None
    """None: that its containers run, and are healthy, is all that is asked."""
    domain: str = ""
    """The name that the proxy answers for; "" without one."""
    public_url: str = ""

    @property
    def service_name(self) -> str:
        """The main service's full name: also its DNS name on the network."""
        return f"{self.stack}_{self.service}"

    @property
    def drillable(self) -> bool:
        """Whether a drill can start it: it can be asked whether it works, and wants no database
        but the drilled one.
        """
        return self.health is not None and len(self.databases) == 1

    @property
    def password_entry(self) -> str:
        """The vault's entry with its role's password."""
        return f"vault_{self.name.replace('-', '_')}_postgres_password"

    def volume_name(self, volume: str) -> str:
        """Given a volume's name in the compose file, return its name in Docker."""
        return f"{self.stack}_{volume}"
