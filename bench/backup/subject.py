"""A database of a benchmark's own in the lab, beside the real one, and all that belongs to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fabfile.base.errors import SwarmkeepError
from fabfile.base.units import format_size
from lab import docker, s3
from lab.model import Lab

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "dbstack_root_db"
NODE = "db1"
KEEP = 'umask 077; cat >"$1"; chmod 700 "$1"'


@dataclass(frozen=True)
class Subject:
    """The database, and the node's folder for its dumps."""

    lab: Lab
    database: str
    folder: str

    @property
    def node(self) -> str:
        """The container of the db node."""
        return self.lab.container(NODE)

    @property
    def config(self) -> str:
        """The settings that make the node's scripts mean this database."""
        return f"/etc/{self.database}.conf"

    def prepare(self, fill: Path, **variables: int) -> None:
        """Deploy what is measured, and fill the database with an SQL file."""
        inv("deploy-db", env=self.lab.environment())
        inv("backup.install", env=self.lab.environment())
        config = docker.inside(self.node, "cat", "/etc/backup-pg.conf")
        config += f"PG_DB={self.database}\nBACKUP_DIR={self.folder}\nKEEP_LOCAL_DAYS=0\n"
        self.put(self.config, config)
        docker.inside(self.node, "mkdir", "-p", self.folder)
        print(f"filling database {self.database}", flush=True)
        self.sql(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
        self.sql(f"CREATE DATABASE {self.database}")
        self.sql(fill.read_text(), self.database, **variables)
        size = self.sql("SELECT pg_database_size(current_database())", self.database)
        print(f"  {format_size(int(size))}", flush=True)

    def put(self, path: str, content: str) -> None:
        """Put a file of root's on the node."""
        docker.inside(self.node, "sh", "-c", KEEP, "sh", path, input=content.encode())

    def sql(self, text: str, database: str = "postgres", **variables: int) -> str:
        """Run SQL in the database's container and return its output."""
        found = self._containers()
        if not found:
            raise SwarmkeepError(f"{SERVICE} does not run on {NODE}", hint="inv status")
        psql = ["psql", "-XAtq", "-U", "nocodb", "-d", database, "-v", "ON_ERROR_STOP=1"]
        for name, value in variables.items():
            psql += ["-v", f"{name}={value}"]
        return docker.inside(
            self.node, "docker", "exec", "-i", found[0], *psql, input=text.encode(), timeout=900
        ).strip()

    def _containers(self) -> list[str]:
        label = f"label=com.docker.swarm.service.name={SERVICE}"
        return docker.inside(self.node, "docker", "ps", "-q", "--filter", label).split()

    def remove(self, *databases: str) -> None:
        """Remove the database and others, the node's files and the objects."""
        # A run that was broken off here runs on in the node.
        docker.exec(self.node, "pkill", "-f", self.config)
        # Where the deploy itself has failed there is nothing to drop.
        for name in (self.database, *databases) if self._containers() else ():
            self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        docker.inside(self.node, "rm", "-rf", self.folder, self.config)
        client = s3.client(self.lab, self.lab.secrets[s3.OPERATOR])
        listed = client.list_objects_v2(Bucket=self.lab.bucket, Prefix=f"postgres/{self.database}/")
        for item in listed.get("Contents", []):
            client.delete_object(Bucket=self.lab.bucket, Key=item["Key"])


def inv(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command of ours, with its output on the screen; SwarmkeepError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *command], cwd=ROOT, env=env, check=False
    )
    if done.returncode:
        raise SwarmkeepError(f"inv {command[0]} failed with exit code {done.returncode}")


def end(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark and exit with its code; what went wrong is a few lines, no traceback."""
    # Ended from outside, it removes what it made, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except SwarmkeepError as error:
        sys.exit("\n  ".join([f"error: {error.message}", *error.details, error.hint]).rstrip())
