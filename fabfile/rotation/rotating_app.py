"""Whose password a rotation changes: NocoDB's role in PostgreSQL, or that of an app beside it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from fabfile.config.apps import OtherApp
from fabfile.config.inventory import Inventory
from fabfile.deploy import other_app_stack, stacks
from fabfile.deploy.observation import observe
from fabfile.deploy.stacks import Wanted
from fabfile.deploy.waiting import Say, await_settled
from fabfile.ssh.fleet import Fleet, Host
from fabfile.swarm import docker_commands
from fabfile.swarm.app_health import await_works
from fabfile.swarm.state import Cluster
from fabfile.vault.reading import POSTGRES_PASSWORD, Secrets


@dataclass(frozen=True)
class RotatingApp:
    """The app that the role is for. `other` is None for NocoDB."""

    inventory: Inventory
    other: OtherApp | None = None

    @property
    def stack(self) -> str:
        """Its stack's name."""
        return self.other.stack if self.other else self.inventory.app.stack

    @property
    def user(self) -> str:
        """The role in PostgreSQL."""
        return self.other.user if self.other else self.inventory.postgres.user

    @property
    def entry(self) -> str:
        """The vault's entry with the password."""
        return self.other.password_entry if self.other else POSTGRES_PASSWORD

    @property
    def words(self) -> str:
        """What commands want to hear behind them: "" or " kinto"."""
        return f" {self.other.name}" if self.other else ""

    @property
    def again(self) -> str:
        """What to do after a rotation that was cut off."""
        return (
            f"run it again: inv secrets.rotate{self.words} finds out how far it came and finishes"
        )

    def wanted(self, secrets: Secrets, hidden: Collection[str]) -> Wanted:
        """The stack with the passwords of `secrets`; what is `hidden` is never shown."""
        wanted = (
            other_app_stack.other_app(self.other, self.inventory, secrets)
            if self.other
            else stacks.application(self.inventory, secrets)
        )
        return replace(wanted, hidden=(*wanted.hidden, *hidden))

    def await_works(self, fleet: Fleet, cluster: Cluster) -> str:
        """Wait until it works; return that in words. Raises SwarmkeepError."""
        return await_works(fleet, self.other.name if self.other else "app", cluster)

    def settled(self, manager: Host, say: Say) -> Cluster:
        """The cluster once Swarm is done with the app's stack."""
        return await_settled(partial(observe, manager), self.stack, say)


def uses(cluster: Cluster, wanted: Wanted) -> bool:
    """Whether the services that run have the secrets of this stack."""
    names = {
        name
        for service in cluster.stack(wanted.name)
        for name in docker_commands.versions_in_use(service.template)
    }
    return {secret.version.name for secret in wanted.secrets} <= names
