"""The password of a role in the running database: what is kept of it, and changing it.

psql runs in the database's container, over its local socket. Where the server asks for a
password there too, the ones given are tried; they travel through stdin.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from fabfile.cluster import Cluster
from fabfile.errors import SwarmkeepError
from fabfile.secret import Secret
from fabfile.transport import Command, Fleet, Host

ASKED = "swarmkeep: asked for a password"

# Reads one line of SQL, then passwords. What the shell's own printf prints is in no list of
# processes; the environment of psql is for root and its own user only.
_INSIDE = f"""
unset PGPASSWORD
IFS= read -r sql
until psql -XAtqwc 'SELECT 1' </dev/null >/dev/null 2>&1; do
  IFS= read -r PGPASSWORD || break
  export PGPASSWORD
done
[ -z "${{PGPASSWORD:-}}" ] || echo {shlex.quote(ASKED)}
printf '%s\\n' "$sql" | psql -XAtqw -v ON_ERROR_STOP=1
"""


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
    postgres = fleet.inventory.postgres
    service = cluster.service(postgres.service)
    names = {node.id: node.name for node in cluster.nodes}
    for task in cluster.tasks_of(service) if service else ():
        entry = fleet.inventory.host_of_node(names.get(task.node_id, ""))
        if entry and task.state == "running" and task.desired == "running":
            return RolePassword(
                fleet.host(entry),
                task.container_id,
                postgres.user,
                postgres.database,
                passwords,
            )
    raise SwarmkeepError(
        f"{postgres.service}: has no running task on a host of hosts.yaml",
        hint="see: inv status",
    )


def run_sql(
    container: str,
    user: str,
    database: str,
    sql: str,
    passwords: Sequence[str],
    *,
    changes: bool = True,
) -> Command:
    """The command that runs a line of SQL in a container; neither is in its arguments."""
    settings = {
        "PGUSER": user,
        "PGDATABASE": database,
        "PGCONNECT_TIMEOUT": "10",
        # Nothing of this may wait for long while the app is being restarted, nor call what
        # somebody else has made in the database under the name of PostgreSQL's own.
        "PGOPTIONS": "-c statement_timeout=10s -c search_path=pg_catalog",
        "LC_ALL": "C",
    }
    words = " ".join(f"-e {shlex.quote(f'{key}={value}')}" for key, value in settings.items())
    script = (
        f"docker exec -i {words} {shlex.quote(container)} timeout 60 sh -c {shlex.quote(_INSIDE)}"
    )
    return Command(script, "".join(f"{line}\n" for line in (sql, *passwords)).encode(), changes)


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
