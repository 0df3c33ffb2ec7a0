"""The password of a role in the running database: what is kept of it, and changing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fabfile.base.secret import Secret
from fabfile.ssh.fleet import Fleet, Host
from fabfile.swarm.postgres import ASKED, run_sql, running
from fabfile.swarm.state import Cluster


@dataclass
class RolePassword:
    """The role of hosts.yaml's pg_user in the container of its running service."""

    host: Host
    container: str
    user: str
    database: str
    passwords: Sequence[Secret]
    """Tried one after the other, where even the local socket asks for one."""
    asked: bool = False
    """Whether it did."""

    def kept(self) -> str:
        """What PostgreSQL keeps of the password. Raises SwarmkeepError if that cannot be read."""
        return self._run(
            f"SELECT rolpassword FROM pg_authid WHERE rolname = {_text(self.user)}",  # noqa: S608
            "reading what it keeps of the password",
            hint=f"the role {self.user} must be a superuser to read it; the one that the image "
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

    def _change(self, verifier: str) -> str:
        return f"ALTER ROLE {_name(self.user)} PASSWORD {_text(verifier)};"

    def _run(self, sql: str, what: str, *, hint: str = "", changes: bool = True) -> str:
        command = run_sql(
            self.container,
            self.user,
            self.database,
            sql,
            [password.reveal() for password in self.passwords],
            changes=changes,
        )
        lines = self.host.check(command, f"PostgreSQL: {what}", hint=hint).stdout.splitlines()
        self.asked = self.asked or ASKED in lines
        return "\n".join(line for line in lines if line != ASKED)


def find(fleet: Fleet, cluster: Cluster, passwords: Sequence[Secret]) -> RolePassword:
    """The role in the running database. SwarmkeepError if there is none on a host of ours."""
    host, container = running(fleet, cluster)
    postgres = fleet.inventory.postgres
    return RolePassword(host, container, postgres.user, postgres.database, passwords)


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
