"""Another database takes the live one's place, and comes back out of it if the app does not answer.

The order: the app is stopped, by a guard that needs nobody to bring it back (app_pause.py); both
databases change their names in one transaction (restore-pg.sh swap); the app is started, and
asked something that it needs its database for. Whoever dies at any moment of this, the app
comes up again, on the one database or the other. Where it cannot be told from here whether the
names have changed, since a connection or the script was lost, the server is asked.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.config.inventory import Inventory, Postgres
from fabfile.deploy.observation import observe
from fabfile.restore import app_pause, restore_script
from fabfile.restore.app_pause import StillDownError
from fabfile.restore.app_resumed import await_resumed, replicas_of
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.remote_command import Command, succeeded
from fabfile.swarm.deploy_lock import Lease
from fabfile.swarm.state import Cluster

# A script whose connection was lost goes on; one that was killed may have left sessions that are
# still about to change the names, which end by themselves within 6 seconds. In the container
# psql is run as restore-pg.sh does it.
_SCRIPT_SECONDS = 90
_NAMES = """\
DO $$ BEGIN FOR i IN 1..100 LOOP
  PERFORM pg_stat_clear_snapshot();
  EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid <> pg_backend_pid()
    AND datname = 'postgres' AND application_name = 'psql' AND state <> 'idle');
  PERFORM pg_sleep(0.1);
END LOOP; END $$;
SELECT datname FROM pg_database WHERE NOT datistemplate;
"""
_INSIDE = """
[ ! -r "${POSTGRES_PASSWORD_FILE:-}" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
[ -z "${POSTGRES_PASSWORD:-}" ] || export PGPASSWORD="$POSTGRES_PASSWORD"
exec psql -XAtqw -v ON_ERROR_STOP=1
"""

Say = Callable[[str], None]


def names_command(postgres: Postgres) -> Command:
    """The command that lists the databases, one a line, once nobody is changing their names."""
    label = shlex.quote(f"label=com.docker.swarm.service.name={postgres.service}")
    words = " ".join(
        f"-e {shlex.quote(setting)}"
        for setting in (
            f"PGUSER={postgres.user}",
            "PGDATABASE=postgres",
            "PGCONNECT_TIMEOUT=10",
            "LC_ALL=C",
        )
    )
    none = f"{postgres.service} has no running container here"
    script = (
        f"n={_SCRIPT_SECONDS}\n"
        "while [ $n -gt 0 ] && pgrep -f '[r]estore-pg.sh swap' >/dev/null; do\n"
        "  sleep 1; n=$((n - 1))\ndone\n"
        f"id=$(docker ps -q --filter {label} --filter status=running | head -n 1)\n"
        f'[ -n "$id" ] || {{ echo {shlex.quote(none)} >&2; exit 1; }}\n'
        f'timeout -k 5 60 docker exec -i {words} "$id" sh -c {shlex.quote(_INSIDE)}'
    )
    return Command(script, _NAMES.encode(), changes=False)


@dataclass
class Exchange:
    """One exchange, under the deploy lock. `host` runs the database's container.

    `note` gets what was changed (for the record), `say` everything worth a line.
    """

    fleet: Fleet
    lease: Lease
    host: Host
    say: Say
    note: Say
    image: str = ""
    """NocoDB's image that goes with the other database; "" for the one that runs."""
    _role: str = ""
    """Whose database it is: of NocoDB ("app"), of an app beside it, or of nobody."""

    def run(self, database: str, other: str, keep_as: str) -> None:
        """Let `other` take the place of `database`, which is kept under another name.

        Raises SwarmkeepError, which tells which database is the live one then.
        """
        self._role = self._inventory.app_of(database)
        before = self._app()
        self.say(f"{other} is to be {database}; the one before will be kept as {keep_as}")
        self._swap(before, database, other, keep_as, self.image)
        if before is None:
            return
        try:
            self._await(before)
        except UnreachableError as error:
            raise SwarmkeepError(
                f"{database} is the other one now, but whether its app answers could not be seen: "
                f"{error.message}",
                hint=f"see inv status; to go back: {self._way_to(keep_as, database)}",
            ) from None
        except SwarmkeepError as error:
            self._back(before, database, other, keep_as, error)
            raise SwarmkeepError(
                f"{error.message}; the databases were swapped back: all is as it was",
                hint=f"what was to be the live one is still there, as {other}: look into it",
                details=error.details,
            ) from None

    def _back(
        self, before: Cluster, database: str, other: str, keep_as: str, error: SwarmkeepError
    ) -> None:
        self.say("this failed: swapping back")
        try:
            # What has failed until now is no failure of what comes back.
            failed = observe(self.lease.manager)
            self._swap(before, database, keep_as, other, self._image_of(before))
            self._await(before, failed)
        except SwarmkeepError as failure:
            raise SwarmkeepError(
                f"{error.message}; and going back failed: {failure.message}",
                hint=f"see inv status, fix the cause; {failure.hint}",
                details=error.details,
            ) from None

    def _swap(
        self, before: Cluster | None, database: str, other: str, keep_as: str, image: str
    ) -> None:
        """Let the names change; return once they have, and the app is on its way up.

        Raises SwarmkeepError that tells which name is whose.
        """
        try:
            line = restore_script.swap_command(database, other, keep_as)
            self._change_names(before, line, image)
        except SwarmkeepError as error:
            self._find_out(error, database, other, keep_as)

    def _image_of(self, before: Cluster) -> str:
        """The image to go back to, if it was to be another one; else ""."""
        service = before.service(self._service)
        return service.image if service and self.image else ""

    def _set_image(self, image: str) -> None:
        """Say what the next task is made of, while none runs; "" for no change."""
        if image:
            words = f"--detach --no-resolve-image --image {shlex.quote(image)}"
            command = f"docker service update {words} {self._service} >/dev/null"
            succeeded(self.lease.change(command), f"setting the image {image}")

    def _change_names(self, before: Cluster | None, line: str, image: str) -> None:
        self._still_ours()
        if before is None:
            restore_script.run(self.host, line, self.note)
            return
        self.say(f"{self._service}: stopping it")
        manager, service = self.lease.manager, self._service
        deploy = "inv deploy-app" if self._role == "app" else f"inv deploy-app {self._role}"
        with app_pause.stopped(manager, service, self.lease.change, deploy) as pause:
            self._still_ours()
            pause.check()
            # Before the names: a later version must not come up on the tables of before.
            former = self._image_of(before) if image else ""
            self._set_image(image)
            try:
                restore_script.run(self.host, line, self.note)
            except UnreachableError:
                raise
            except SwarmkeepError:
                self._set_image(former)
                raise
        self.say(f"{self._service}: starting it")

    def _find_out(self, error: SwarmkeepError, database: str, other: str, keep_as: str) -> None:
        """After a failure: return if the names have changed all the same; else raise it, with
        what is so now.
        """
        try:
            names = self._names()
        except SwarmkeepError as failure:
            raise _also(
                error,
                f"which databases there are now could not be seen ({failure.message})",
                f"{self._way_to_look()}: if {keep_as} is there, {other} is {database} now; "
                f"else nothing was changed, and {other} is still there",
            ) from None
        if other in names:
            advice = f"{other} is still there: {self._way_to(other, database)}"
            raise _also(error, "", advice) from None
        if database not in names:
            raise _also(
                error, f"there is neither a {other} nor a {database}", self._way_to_look()
            ) from None
        changed = f"{other} is {database} now"
        if keep_as in names:
            changed += f"; the one before is kept as {keep_as}"
        if isinstance(error, StillDownError):
            raise _also(error, changed, "see inv status") from None
        self.say(f"warning: {error.message}")
        self.note(f"it was done all the same: {changed}")

    def _names(self) -> set[str]:
        """The databases there are, asked over a new connection where the old one is lost."""
        host = self.fleet.host(self.host.entry)
        command = names_command(self._inventory.postgres)
        asked = host.check(command, "asking for its databases", timeout=2 * _SCRIPT_SECONDS)
        return set(asked.stdout.split("\n"))

    def _app(self) -> Cluster | None:
        """What there is now, if the database is an app's and that runs."""
        if not self._role:
            return None
        cluster = observe(self.lease.manager)
        service = cluster.service(self._service)
        return cluster if service and replicas_of(service) != 0 else None

    def _still_ours(self) -> None:
        succeeded(self.lease.change(":\n"), "looking at the deploy lock")

    def _await(self, before: Cluster, failed: Cluster | None = None) -> None:
        await_resumed(self.fleet, self.lease.manager, before, self.say, failed, self._role)

    def _way_to(self, other: str, database: str) -> str:
        which = "" if database == self._inventory.postgres.database else f" --database {database}"
        return f"inv backup.swap {other}{which}"

    def _way_to_look(self) -> str:
        postgres = self._inventory.postgres
        return (
            f"look on {self.host.name}: docker exec $(docker ps -q --filter "
            f"label=com.docker.swarm.service.name={postgres.service}) psql -U {postgres.user} -l "
            "postgres"
        )

    @property
    def _inventory(self) -> Inventory:
        return self.fleet.inventory

    @property
    def _service(self) -> str:
        return self._inventory.app_service(self._role)


def _also(error: SwarmkeepError, said: str, advice: str) -> SwarmkeepError:
    """The same error, which says and advises more."""
    return type(error)(
        "; ".join(filter(None, (error.message, said))),
        hint="; ".join(filter(None, (error.hint, advice))),
        details=error.details,
    )
