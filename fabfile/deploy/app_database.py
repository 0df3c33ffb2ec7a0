"""The role and the databases of an application beside NocoDB, in the PostgreSQL that there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fabfile.base import scram
from fabfile.base.errors import ConfigError
from fabfile.swarm.postgres import ASKED, quoted_name, quoted_text, run_sql, running

if TYPE_CHECKING:
    from fabfile.config.apps import OtherApp
    from fabfile.deploy.plan import Plan
    from fabfile.deploy.stacks import Wanted
    from fabfile.ssh.fleet import Fleet
    from fabfile.swarm.postgres import Names
    from fabfile.swarm.state import Cluster


def lacking(app: OtherApp, names: Names | None) -> tuple[str, ...]:
    """What would have to be made, a line each: "role kinto", "database kinto".

    `names` is what PostgreSQL has; None where it does not run yet, and so has nothing.
    """
    roles = names.roles if names else frozenset[str]()
    databases = names.databases if names else frozenset[str]()
    role = () if app.user in roles else (f"role {app.user}",)
    return (*role, *(f"database {name}" for name in app.databases if name not in databases))


def for_plan(fleet: Fleet, wanted: Wanted, plan: Plan, cluster: Cluster) -> list[str]:
    """Make what a plan says, before it deploys; return a line for each. For other stacks: nothing.

    Raises as `make`.
    """
    app = fleet.inventory.other_app(wanted.role)
    if app is None or not (plan.databases or plan.deploys):
        return []
    return make(fleet, cluster, app, wanted.role_password, [wanted.password])


def make(
    fleet: Fleet, cluster: Cluster, app: OtherApp, password: str, administrators: Sequence[str]
) -> list[str]:
    """Make the role and the databases that are not there yet; return a line for each.

    `administrators`: passwords to try where the local socket asks for one. Raises ConfigError
    where a role of this name has another password, or a database another owner; SwarmkeepError if
    PostgreSQL refuses.
    """
    host, container = running(fleet, cluster)
    postgres = fleet.inventory.postgres

    def run(sql: str, what: str, *, changes: bool) -> list[str]:
        command = run_sql(
            container, postgres.user, "postgres", sql, administrators, changes=changes
        )
        lines = host.check(command, f"PostgreSQL: {what}").stdout.splitlines()
        return [line for line in lines if line != ASKED]

    names = ", ".join(map(quoted_text, app.databases))
    there = run(
        f"SELECT 'role ' || coalesce(rolpassword, '') FROM pg_authid WHERE rolname = "  # noqa: S608
        f"{quoted_text(app.user)} UNION ALL SELECT 'database ' || datname || ' ' || "
        f"pg_get_userbyid(datdba) FROM pg_database WHERE datname IN ({names})",
        f"asking for the role {app.user}",
        changes=False,
    )
    kept = [line.removeprefix("role ") for line in there if line.startswith("role ")]
    owners = dict(line.split(" ")[1:3] for line in there if line.startswith("database "))
    _check(app, kept, owners, password)
    done = []
    if not kept:
        verifier = quoted_text(scram.verifier(password))
        run(f"CREATE ROLE {quoted_name(app.user)} LOGIN PASSWORD {verifier}",
            f"making the role {app.user}", changes=True)  # fmt: skip
        done.append(f"role {app.user}: created")
    for name in app.databases:
        if name not in owners:
            # Nobody but its owner connects to it: other apps' roles do neither.
            run(
                f"SET statement_timeout = '60s'; CREATE DATABASE {quoted_name(name)} OWNER "
                f"{quoted_name(app.user)}; REVOKE CONNECT, TEMPORARY ON DATABASE "
                f"{quoted_name(name)} FROM PUBLIC",
                f"making the database {name}",
                changes=True,
            )
            done.append(f"database {name}: created, owner {app.user}")
    return done


def _check(app: OtherApp, kept: Sequence[str], owners: dict[str, str], password: str) -> None:
    if kept and not scram.accepts(kept[0], app.user, password):
        raise ConfigError(
            f"apps.{app.name}: PostgreSQL has a role {app.user} with another password than the "
            f"vault's {app.password_entry}",
            hint=f"if it is this app's: inv secrets.set {app.password_entry}; if it is somebody "
            f"else's: set another apps.{app.name}.user",
        )
    for name, owner in owners.items():
        if owner != app.user:
            raise ConfigError(
                f"apps.{app.name}: PostgreSQL has a database {name} already, of the role {owner}",
                hint=f"if it is this app's: ALTER DATABASE {quoted_name(name)} OWNER TO "
                f"{quoted_name(app.user)}; if it is not: set another apps.{app.name}.database",
            )
