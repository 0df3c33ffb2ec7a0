"""The lab, and the product's commands run as a user runs them.

SWARMKEEP_TEST_LAB names another lab than swarmkeep-test; with SWARMKEEP_TEST_KEEP_LAB=1 it
stays up afterwards, for working on a test. Workers of pytest-xdist have a lab each: files run
side by side, the longest first, the others in the order of their names, and no file relies on
another's tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base.errors import SwarmkeepError
from lab import cluster, demo, engine, images, s3, storage
from lab import docker as lab_docker
from lab.model import NODES, Lab
from lab.progress import Progress
from tests.e2e import preloaded_aws, preloaded_inv
from tests.e2e.live import DB, QUIET, container_of, databases, docker, eventually, sql

ROOT = Path(__file__).parents[2]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NAME = os.environ.get("SWARMKEEP_TEST_LAB", "swarmkeep-test") + (f"-{WORKER}" if WORKER else "")
KEEP = bool(os.environ.get("SWARMKEEP_TEST_KEEP_LAB"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if WORKER or session.config.option.collectonly:
        return
    # Started first: what a stopped engine holds was there before, too.
    with Progress(print) as progress:
        engine.ensure(progress)
    session.config.stash[THERE] = there()
    labs = len(getattr(session.config.option, "tx", None) or ["one"])
    mounts, meminfo = Path("/proc/mounts").read_text(), Path("/proc/meminfo").read_text()
    free = shutil.disk_usage(storage.MEMORY).free if storage.MEMORY.exists() else 0
    if not KEEP and os.geteuid() == 0 and storage.fits_in_memory(labs, mounts, meminfo, free):
        os.environ[storage.SWITCH] = "yes"


FIRST = (
    # In labs where nothing has been deployed yet, and nothing backed up.
    "test_1_deploy", "test_4_backup",
    # Then those that take minutes, the longest first (docs/testing.md), so that none of them is
    # alone at the end.
    "test_8_container", "test_8_adopt", "test_3_plan_and_releases", "test_8_proxy",
    "test_8_pitr_faults", "test_8_recover", "test_8_replace", "test_8_upgrade_db", "test_8_apps",
    "test_8_pitr", "test_8_upgrade_app", "test_8_encryption", "test_7_rotate",
    "test_6_swarm_init_and_doctor", "test_8_drill", "test_5_backup_faults",
)  # fmt: skip
"""The files that begin first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run leaves on the engine what it found there."""
    before = session.config.stash.get(THERE, None)
    left = [] if before is None or KEEP else sorted(there() - before)
    if left:
        print("\nleft on this machine:", *left, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


THERE = pytest.StashKey[set[str]]()


def there() -> set[str]:
    """Every container, network and volume of the engine, and what labs have in memory."""
    lists = {
        kind: lab_docker.run(kind, "ls", "--quiet", *more).split()
        for kind, more in (("container", ["--all"]), ("network", []), ("volume", []))
    }
    in_memory = {str(path) for path in storage.folder("any").parent.glob("*")}
    return in_memory | {f"{kind} {one}" for kind, found in lists.items() for one in found}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what a person would look at: services, tasks, the scripts' logs."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and lab is not None:
        report.sections.append(("the lab", state_of(lab)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """The last test of a file is followed by a look for volumes that nobody has named."""
    lab = getattr(item, "funcargs", {}).get("lab")
    yield
    # After the very last test the lab is gone.
    last_of_file = nextitem.path != item.path if nextitem else KEEP
    if lab is not None and last_of_file:
        left = {node: unnamed_volumes(lab, node) for node in NODES}
        assert not any(left.values()), f"volumes that containers have left: {left}"


def unnamed_volumes(lab: Lab, node: str) -> list[str]:
    """The volumes that no container holds and that have no name, only a hash."""
    found = docker(lab, node, "volume", "ls", "--quiet", "--filter", "dangling=true")
    return [name for name in found.split() if re.fullmatch("[0-9a-f]{64}", name)]


LOOK = {
    "manager1": "docker node ls; docker service ls; docker service ps --no-trunc "
    "$(docker service ls -q) | cut -c1-250 | head -n 40",
    "db1": "docker ps -a; tail -qn 40 /var/log/backup-*.log",
    "app1": "docker ps -a; tail -qn 20 /var/log/backup-*.log",
}


def state_of(lab: Lab) -> str:
    """What each node says of itself, as text; whatever cannot be asked says so."""
    lines = []
    for node, script in LOOK.items():
        lines.append(f"--- {node}: {script}")
        try:
            done = lab.exec(node, "sh", "-c", f"exec 2>&1; {script}", timeout=30)
            lines.append(done.stdout.decode(errors="replace"))
        except (SwarmkeepError, OSError, subprocess.SubprocessError) as error:
            lines.append(f"cannot be asked: {error}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything a user saw."""
        return self.out + self.err


@cache
def preloaded() -> preloaded_inv.PreloadedInv:
    return preloaded_inv.PreloadedInv()


@dataclass(frozen=True)
class Product:
    """Runs `inv` against the lab. Every output is searched for the lab's secrets."""

    lab: Lab
    secrets: tuple[str, ...]

    def inv(
        self,
        *args: str,
        hosts: Path | None = None,
        env: dict[str, str] | None = None,
        stdin: str = "",
        timeout: float = 600,
        root: Path = ROOT,
    ) -> Ran:
        """Run a command and return what it did, whatever its exit code.

        `root` is the checkout it is run from.
        """
        environment = self.lab.environment() | (env or {})
        # As a user has it: compiled once instead of at every command, a fifth of a second each.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if hosts:
            environment["SWARMKEEP_HOSTS"] = str(hosts)
        # In a session of its own: a prompt must read what we give it, not the tests' terminal.
        if root == ROOT and preloaded_inv.serves(environment):
            done = preloaded().run(args, environment, stdin, timeout)
        else:
            done = subprocess.run(
                [sys.executable, "-m", "invoke", *args],
                cwd=root,
                env=environment,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        print(f"$ inv {' '.join(args)}  -> {ran.code}\n{ran.text}")
        for secret in self.secrets:
            assert secret not in ran.text, "a secret was shown"
        assert "Traceback" not in ran.text
        assert "internal error" not in ran.text
        return ran

    def ok(self, *args: str, **options: Any) -> Ran:
        """Run a command that must succeed."""
        ran = self.inv(*args, **options)
        assert ran.code == 0, ran.text
        return ran

    def fails(self, code: int, *args: str, **options: Any) -> Ran:
        """Run a command that must fail, with this exit code and one line that says why."""
        ran = self.inv(*args, **options)
        assert ran.code == code, ran.text
        assert ran.err.startswith("error: ") or "\nerror: " in ran.text, ran.text
        return ran


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Progress(print) as progress:
        engine.ensure(progress)
    if not KEEP:
        # What an earlier run may have left that was ended half-way.
        cluster.down(NAME, say=print)
    made = cluster.up(NAME, say=print)
    quiet = "".join(f"  {key}: {text!r}\n" for key, text in QUIET.items())
    hosts = made.hosts_file.read_text()
    if "\n  schedule:" not in hosts:  # a lab that was kept has one
        made.hosts_file.write_text(hosts.replace("\nbackup:\n", f"\nbackup:\n{quiet}"))
    preload_aws(made)
    yield made
    if not KEEP:
        cluster.down(NAME, say=print)


def preload_aws(lab: Lab) -> None:
    """Have the scripts on the nodes use the AWS CLI in forks of a process that has imported it."""
    text = Path(preloaded_aws.__file__).read_bytes()
    for node in NODES:
        path = "/usr/local/bin/aws"
        assert lab.exec(node, "tee", path, input=text).returncode == 0
        assert lab.exec(node, "chmod", "755", path).returncode == 0


@pytest.fixture(scope="module")
def plain_aws(lab: Lab) -> Iterator[None]:
    """The AWS CLI as it is installed, and as users have it."""
    for node in NODES:
        lab.exec(node, "rm", "/usr/local/bin/aws")
    yield
    preload_aws(lab)


def product_for(lab: Lab) -> Product:
    """The product's commands, run against a lab that stands."""
    values = lab.secrets.values()
    flat = [v for value in values for v in (value.values() if isinstance(value, dict) else [value])]
    # Access key ids and names are no secrets; what is long and random is.
    return Product(lab, tuple(str(v) for v in flat if isinstance(v, str) and len(v) >= 16))


@pytest.fixture(scope="session")
def product(lab: Lab) -> Product:
    return product_for(lab)


@pytest.fixture(scope="session")
def deployed(product: Product) -> Product:
    """Both stacks are deployed and converged."""
    product.ok("deploy")
    return product


@pytest.fixture
def variant(lab: Lab) -> Iterator[Callable[..., Path]]:
    """Makes a hosts file from the lab's own with some keys changed (nested mappings merged)."""
    made: list[Path] = []

    def make(changes: dict[str, Any]) -> Path:
        data = yaml.safe_load(lab.hosts_file.read_text())
        path = lab.directory / f"hosts-variant-{len(made)}.yaml"
        path.write_text(yaml.safe_dump(merged(data, changes)))
        made.append(path)
        return path

    yield make
    for path in made:
        path.unlink()


@pytest.fixture
def with_database(
    variant: Callable[..., Path], lab: Lab
) -> Iterator[Callable[[dict[str, Any]], Path]]:
    """As `variant`, where `pg_db` is a database that is there: a deploy refuses any other."""
    made: set[str] = set()

    def make(changes: dict[str, Any]) -> Path:
        name = changes.get("pg_db", "nocodb")
        made.update({name} - {"nocodb"})
        # A deploy may just be restarting PostgreSQL.
        eventually(lambda: there(name), 60)
        return variant(changes)

    def there(name: str) -> bool:
        try:
            if name not in databases(lab):
                sql(lab, f'CREATE DATABASE "{name}"')
        except AssertionError:
            return False
        return True

    def gone() -> bool:
        try:
            for name in made:
                sql(lab, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        except AssertionError:
            return False
        return True

    yield make
    if made:
        eventually(gone, 60)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Given a mapping and changes (None removes a key), return the changed mapping."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def empty(bucket: Any, lab: Lab, *prefixes: str) -> None:
    """Delete every object whose key begins with one of these."""
    for prefix in prefixes:
        pages = bucket.get_paginator("list_objects_v2").paginate(Bucket=lab.bucket, Prefix=prefix)
        for one in (item for page in pages for item in page.get("Contents", [])):
            bucket.delete_object(Bucket=lab.bucket, Key=one["Key"])


@pytest.fixture(scope="session")
def bucket(lab: Lab) -> Any:
    """The S3 client of a user who may do everything."""
    return s3.client(lab, lab.secrets[s3.OPERATOR])


@pytest.fixture(scope="module")
def rows(deployed: Product, lab: Lab) -> list[dict[str, Any]]:
    """Real data, put in through NocoDB's own API."""
    demo.fill(lab)
    return demo.records(lab)


@pytest.fixture(scope="module")
def stamp(rows: list[dict[str, Any]], product: Product) -> str:
    """The time stamp of a backup of `rows`."""
    product.ok("backup.install")
    product.ok("backup.run")
    return str(json.loads(product.ok("backup.list", "--json").out)["backups"][0]["set"])


@pytest.fixture(scope="module")
def postgres_17(lab: Lab) -> Iterator[str]:
    """The image of a newer major version, on the db node; its tag."""
    with Progress(print) as progress:
        images.ensure(progress, (images.POSTGRES_17,))
    tag, node = images.POSTGRES_17.tag, lab.container("db1")
    lab_docker.pipe(("save", tag), ("exec", "--interactive", node, "docker", "load"))
    yield tag
    docker(lab, "db1", "image", "rm", "--force", tag)


@pytest.fixture
def tidy(lab: Lab) -> Iterator[None]:
    """Whatever other databases a test has made are dropped after it."""
    yield
    if container_of(lab, "db1", DB):
        for name in databases(lab) - {"nocodb"}:
            sql(lab, f'DROP DATABASE "{name}" WITH (FORCE)')
