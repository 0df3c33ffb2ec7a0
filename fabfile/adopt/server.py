"""PostgreSQL in a container on a host: what it has, its description, its dump, its restore.

The programs run in the container, over its local socket: nothing is installed, and no password
leaves it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from fabfile.adopt.source import Connection
from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.backup.script_files import script_text
from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.observation import pull
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, succeeded

# Where a server asks for a password on its socket, that is the container's own.
_INSIDE = (
    'if [ -r "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat '
    '"$POSTGRES_PASSWORD_FILE"); fi; '
    'if [ -n "${POSTGRES_PASSWORD:-}" ]; then export PGPASSWORD="$POSTGRES_PASSWORD"; fi; '
    'exec "$@"'
)
PASSWORDS = "/run/swarmkeep-adopt"
"""In memory, for root only: the password of a server that is reached by its address."""
PSQL = "psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse"

_FIRST = """
SELECT json_build_object('major', current_setting('server_version_num')::int / 10000,
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
""".replace("\n", " ")
_FACTS = """
SELECT json_build_object(
  'major', current_setting('server_version_num')::int / 10000,
  'version', current_setting('server_version'),
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'recovery', pg_is_in_recovery(),
  'tablespaces', (SELECT count(*) FROM pg_tablespace
    WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'prepared', (SELECT count(*) FROM pg_prepared_xacts),
  'settings', (SELECT coalesce(json_agg(DISTINCT name), '[]') FROM pg_file_settings
    WHERE sourcefile ~ 'postgresql[.]auto[.]conf$'),
  'roles', (SELECT json_agg(rolname ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'),
  'locales', (SELECT json_agg(DISTINCT lower(replace(collname, '-', ''))) FROM pg_collation
    WHERE collprovider IN ('c', 'd')),
  'extensions', (SELECT json_agg(name) FROM pg_available_extensions),
  'databases', (SELECT json_agg(json_build_object('name', datname, 'bytes', pg_database_size(oid),
    'collate', datcollate, 'ctype', datctype, 'encoding', pg_encoding_to_char(encoding),
    'version', to_jsonb(d) ->> 'datcollversion') ORDER BY datname)
    FROM pg_database d WHERE datallowconn AND NOT datistemplate))
""".replace("\n", " ")  # fmt: skip

_CONTENT = """
SELECT json_build_object(
  'extensions', (SELECT coalesce(json_agg(extname), '[]') FROM pg_extension),
  'relations', (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'),
  'tables', (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'))
""".replace("\n", " ")

WRITTEN = """
SELECT coalesce(sum(n_tup_ins), 0), coalesce(sum(n_tup_upd), 0), coalesce(sum(n_tup_del), 0)
FROM pg_stat_user_tables
""".replace("\n", " ")


@cache
def _part(name: str) -> str:
    return base64.b64encode(script_text(f"parts/{name}.sh")).decode()


def with_parts(script: str, *names: str) -> str:
    """A script of bash that begins with parts of scripts/parts/, as one word for `sh -c`."""
    lines = [f'eval "$(echo {_part(name)} | base64 -d)"' for name in names]
    return f"exec bash -c {shlex.quote(chr(10).join([*lines, script]))}"


@dataclass(frozen=True)
class Address:
    """Where a PostgreSQL is that is in no container which we know; `image` has programs for it."""

    host: str
    port: int
    image: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL, in a container on the host, or reached from it by its address.

    `user` is a superuser of it.
    """

    host: Host
    container: str
    user: str
    address: Address | None = None

    def inside(self, program: str, database: str = "postgres") -> str:
        """The words of a shell that run a program of PostgreSQL, with its stdin and stdout."""
        settings = {
            "PGUSER": self.user,
            "PGDATABASE": database,
            "PGCONNECT_TIMEOUT": "10",
            "PGOPTIONS": "-c search_path=pg_catalog",
            "LC_ALL": "C",
        }
        if self.address:
            settings |= {
                "PGHOST": self.address.host,
                "PGPORT": str(self.address.port),
                "PGPASSFILE": f"{PASSWORDS}/pgpass",
            }
        words = " ".join(f"-e {shlex.quote(f'{key}={value}')}" for key, value in settings.items())
        if self.address:
            return (
                "docker run --rm -i --label swarmkeep.adopt=source --network host "
                f"-v {PASSWORDS}:{PASSWORDS}:ro {words} "
                f"--entrypoint '' {shlex.quote(self.address.image)} {program}"
            )
        return (
            f"docker exec -i {words} {shlex.quote(self.container)} "
            f"sh -c {shlex.quote(_INSIDE)} sh {program}"
        )

    def sql(self, text: str, what: str, database: str = "postgres", *, changes: bool = True) -> str:
        """Run SQL and return what it prints. Raises SwarmkeepError."""
        command = Command(self.inside(PSQL, database), f"{text}\n".encode(), changes)
        result = self.host.run(command, timeout=RUN_TIMEOUT)
        return succeeded(result, what).stdout

    def facts(self) -> dict[str, Any]:
        """What is to be known of the server; little of it where the user is no superuser.

        Raises SwarmkeepError if it does not answer.
        """
        first = self._json(_FIRST, "postgres")
        return self._json(_FACTS, "postgres") if first["superuser"] else first

    def content(self, database: str) -> dict[str, Any]:
        """What is in a database: its extensions, how many tables, how many relations at all."""
        return self._json(_CONTENT, database)

    def describe(self, database: str) -> list[str]:
        """The database in lines, as scripts/parts/upgrade-describe.sh has them, in order."""
        return self._described("describe", database)

    def describe_roles(self) -> list[str]:
        """The roles in lines, in order; passwords are in there as hashes."""
        return self._described("describe_roles", "postgres")

    def globals(self) -> str:
        """The SQL that makes the roles. It has their passwords: it must never be shown."""
        command = Command(self.inside("pg_dumpall -w --globals-only"), changes=False)
        text = succeeded(self.host.run(command, timeout=RUN_TIMEOUT), "dumping the roles").stdout
        if "-- PostgreSQL database cluster dump complete" not in text:
            raise SwarmkeepError(f"{self.host.name}: the dump of the roles is not whole")
        return text

    def dump(self, database: str, snapshot: str) -> str:
        """The command that writes a dump of the database to stdout, as a session has it."""
        words = f"-w -Fc -Z1 --lock-wait-timeout=60s --snapshot={shlex.quote(snapshot)}"
        return f"{self.inside(f'pg_dump {words}', database)} </dev/null"

    def restore(self) -> str:
        """The command that makes a database from a dump on stdin, under the dump's name for it."""
        options = "-c synchronous_commit=off -c maintenance_work_mem=128MB"
        program = f"env PGOPTIONS={shlex.quote(options)} pg_restore -w --exit-on-error --create"
        return f"{self.inside(f'{program} -d postgres')} >/dev/null"

    def written(self, databases: tuple[str, ...]) -> tuple[int, int, int]:
        """How many rows were inserted, updated and deleted since the counters began."""
        total = (0, 0, 0)
        for name in databases:
            said = self.sql(WRITTEN, "asking PostgreSQL", name, changes=False)
            a, b, c = (int(part) for part in said.strip().split("|"))
            total = (total[0] + a, total[1] + b, total[2] + c)
        return total

    def _described(self, function: str, database: str) -> list[str]:
        script = f"set -o pipefail; {function} | {self.inside(PSQL, database)}"
        command = Command(with_parts(script, "upgrade-describe"), changes=False)
        result = self.host.run(command, timeout=RUN_TIMEOUT)
        return sorted(succeeded(result, f"describing {database}").stdout.splitlines())

    def _json(self, sql: str, database: str) -> dict[str, Any]:
        said = self.sql(sql, "asking PostgreSQL", database, changes=False)
        try:
            data: dict[str, Any] = json.loads(said)
        except ValueError:
            raise SwarmkeepError(
                f"{self.host.name}: PostgreSQL {self.address or f'in {self.container}'} does not "
                "say what it has",
                hint="look at its log",
            ) from None
        return data


@contextmanager
def reached(host: Host, connection: Connection, image: str) -> Iterator[Server]:
    """The server at NocoDB's own address for it, asked from NocoDB's host by programs of an image.

    Its password is in a file of root's for the length of the block. Raises SwarmkeepError if the
    image cannot be had.
    """
    need_image(host, image)
    escaped = re.sub(r"([\\:])", r"\\\1", connection.password.reveal())
    script = f"umask 077; mkdir -p {PASSWORDS} && cat >{PASSWORDS}/pgpass"
    write = Command(script, f"*:*:*:*:{escaped}\n".encode(), changes=False)
    try:
        host.check(write, "writing the password")
        address = Address(connection.host, connection.port, image)
        yield Server(host, "", connection.user, address)
    finally:
        with contextlib.suppress(SwarmkeepError):
            host.run(Command(f"rm -rf {PASSWORDS}", changes=False))


def need_image(host: Host, image: str) -> None:
    """Make sure that an image is on the host. Raises SwarmkeepError if it cannot be had."""
    there = Command(f"docker image inspect {shlex.quote(image)} >/dev/null 2>&1", changes=False)
    if host.run(there).exit_code:
        pull(host, image)
