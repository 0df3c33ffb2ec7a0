"""The password of a role in the running database: what is kept of it, and changing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fabfile.base import scram
from fabfile.base.secret import Secret
from fabfile.ssh.fleet import Fleet, Host
from fabfile.swarm.postgres import ASKED, quoted_name, quoted_text, run_sql, running
from fabfile.swarm.state import Cluster


@dataclass
class RolePassword:
    """A role, in the container of the running service."""

    host: Host
    container: str
    administrator: str
    """The role of hosts.yaml's pg_user, which may read and change what is kept of passwords."""
    user: str
    database: str
    passwords: Sequence[Secret]
    """Tried one after the other, where even the local socket asks for one."""
    asked: bool = False
    """Whether it did."""

    def kept(self) -> str:
        """What PostgreSQL keeps of the password. Raises SwarmkeepError if that cannot be read."""
        return self._run(
            f"SELECT rolpassword FROM pg_authid WHERE rolname = {quoted_text(self.user)}",  # noqa: S608
            "reading what it keeps of the password",
            hint=f"the role {self.administrator} must be a superuser; the one that the image "
            "makes from POSTGRES_USER is",
            changes=False,
        )

    def rehearse(self, verifier: str) -> None:
        """Change the password and take that back, unseen by others. SwarmkeepError if refused."""
        self._run(
            f"BEGIN; {self._change(verifier)} ROLLBACK;",
            f"changing the password of {self.user}",
            hint="nothing was changed; is the server read-only, or the role locked?",
            changes=False,
        )

    def change(self, verifier: str) -> None:
        """Change the password to the one of this verifier. SwarmkeepError if that fails."""
        self._run(self._change(verifier), f"changing the password of {self.user}")

    def has(self, password: Secret) -> bool:
        """Whether this is its password. Raises SwarmkeepError if that cannot be read."""
        return scram.accepts(self.kept(), self.user, password.reveal())

    def bring(self, password: Secret) -> bool:
        """Have it this password; return whether it had another one. SwarmkeepError if refused."""
        if self.has(password):
            return False
        self.change(scram.verifier(password.reveal()))
        return True

    def _change(self, verifier: str) -> str:
        return f"ALTER ROLE {quoted_name(self.user)} PASSWORD {quoted_text(verifier)};"

    def _run(self, sql: str, what: str, *, hint: str = "", changes: bool = True) -> str:
        command = run_sql(
            self.container,
            self.administrator,
            self.database,
            sql,
            [password.reveal() for password in self.passwords],
            changes=changes,
        )
        lines = self.host.check(command, f"PostgreSQL: {what}", hint=hint).stdout.splitlines()
        self.asked = self.asked or ASKED in lines
        return "\n".join(line for line in lines if line != ASKED)


def find(
    fleet: Fleet, cluster: Cluster, passwords: Sequence[Secret], user: str = ""
) -> RolePassword:
    """A role in the running database, hosts.yaml's pg_user unless another `user` is named.

    Raises SwarmkeepError if the database does not run on a host of ours.
    """
    host, container = running(fleet, cluster)
    postgres = fleet.inventory.postgres
    named = user or postgres.user
    return RolePassword(host, container, postgres.user, named, postgres.database, passwords)
