"""A set of PostgreSQL 15 comes back into a newer major version, with every row."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import demo, images
from lab import docker as lab_docker
from tests.e2e.live import docker, eventually, sql

REQUIREMENTS = Path(__file__).with_name("newer-postgres.txt")
NAME, SERVICE, CONFIG = "newer", "newer_root_db", "/root/newer.conf"
BIN = "/opt/newer/pgserver/pginstall/bin"
PATH = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "PG_MAJOR": "16",
    "POSTGRES_USER": "nocodb",
    "POSTGRES_DB": "nocodb",
    "POSTGRES_PASSWORD": "only-here",
    "POSTGRES_INITDB_ARGS": "-E UTF8 --locale=C.UTF-8",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """PostgreSQL 16's programs and libraries, from a wheel whose hash is known."""
    folder = tmp_path_factory.mktemp("newer")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary=:all:", "--python-version=311", "--implementation=cp"),
            *("--platform=manylinux2014_x86_64", "--dest", str(folder), "-r", str(REQUIREMENTS)),
        ],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "tree")
    for program in (folder / "tree/pgserver/pginstall/bin").iterdir():
        program.chmod(0o755)
    return folder / "tree"


@pytest.fixture
def newer(deployed, lab, programs) -> Iterator[str]:
    """A container of PostgreSQL 16 on the db node, which looks like a service's."""
    node = lab.container("db1")
    lab_docker.run("exec", node, "mkdir", "-p", "/var/newer")
    lab_docker.run("cp", f"{programs}/.", f"{node}:/var/newer")
    docker(
        lab, "db1", "run", "--detach", "--name", NAME,
        "--label", f"com.docker.swarm.service.name={SERVICE}",
        "--volume", "/var/newer:/opt/newer:ro",
        *(word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")),
        images.POSTGRES.tag,
    )  # fmt: skip
    try:
        # Over TCP: during its first start it listens on its socket only.
        ready = ("exec", NAME, "pg_isready", "-qh", "127.0.0.1", "-U", "nocodb")
        eventually(lambda: lab.exec("db1", "docker", *ready).returncode == 0, 60)
        yield NAME
    finally:
        docker(lab, "db1", "rm", "--force", "--volumes", NAME)
        lab.exec("db1", "rm", "-rf", "/var/newer", CONFIG, "/var/backups/newer")


def test_every_row_of_15_comes_back_in_16(product, lab, newer):
    demo.fill(lab)
    product.ok("backup.install")
    assert lab.exec("db1", "/usr/local/bin/backup-pg.sh").returncode == 0
    settings = f"DB_SERVICE_NAME={SERVICE}\nBACKUP_DIR=/var/backups/newer\n"
    script = f"umask 077; {{ cat /etc/backup-pg.conf; printf '{settings!s}'; }} >{CONFIG}"
    assert lab.exec("db1", "sh", "-c", script.replace("\n", "\\n")).returncode == 0

    done = lab.exec(
        *("db1", "/usr/local/bin/restore-pg.sh", "restore", "--config", CONFIG),
        *("--latest", "--into", "from_15"),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"restore complete" in done.stderr

    def ask(text: str) -> str:
        return docker(
            lab, "db1", "exec", newer, "psql", "-XAtq", "-U", "nocodb", "-d", "from_15", "-c", text
        )

    assert ask("SHOW server_version").startswith("16.")
    assert sql(lab, "SHOW server_version").startswith("15.")
    users = "SELECT count(*) FROM nc_users_v2"
    assert ask(users) == sql(lab, users, "nocodb") == "1"
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
    assert ask(tables) == sql(lab, tables, "nocodb")
