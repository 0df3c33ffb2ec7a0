"""The backup as a container: moved to and from, and all that the backup on the host does.

What the host's backup shows (test_4_backup) and survives (test_5_backup_faults) is shown for
this one by the same tests.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import backup_place, preloaded_aws
from tests.e2e import test_4_backup as on_host
from tests.e2e import test_5_backup_faults as faults
from tests.e2e.conftest import Product, Ran, merged
from tests.e2e.live import (
    DB,
    QUIET,
    container_of,
    databases,
    docker,
    eventually,
    named,
    nocodb_shows,
    sql,
)
from tests.e2e.test_5_backup_faults import held, script  # noqa: F401 # fixtures
from tests.e2e.test_8_pitr import now

# Its clock is waited for by the minute.
pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(900)]

DATABASE, FILES = backup_place.InContainer.service, "backupstack_files"
STATE = "backupstack_state"
BUILT = "swarmkeep/backup"
NEWEST_BASE = "/var/backups/postgres/.wal/newest-base"
AS_ON_THE_HOST = [
    on_host.test_a_run_puts_the_data_into_the_bucket_and_verify_says_so,
    on_host.test_the_manifest_has_every_tables_rows_and_what_runs,
    on_host.test_attachments_are_in_the_bucket_and_verify_says_so,
    on_host.test_deep_reads_the_archive_in_the_container_where_there_is_no_pg_restore,
    on_host.test_restored_by_hand_with_plain_tools_every_row_is_there,
    on_host.test_the_nodes_key_may_write_but_not_delete,
    faults.test_database_service_absent,
    faults.test_pg_dump_killed_half_way,
    faults.test_script_killed_hard_half_way_and_run_again,
    faults.test_two_runs_at_once,
    faults.test_too_little_space_and_disk_full,
    faults.test_wrong_key_and_no_such_bucket_keep_the_dump_for_the_next_run,
    faults.test_s3_away_then_back,
    faults.test_connection_cut_in_the_middle_of_the_upload,
]


@dataclass(frozen=True)
class InContainer(Product):
    """Runs `inv` with the hosts file whose backup is a container."""

    own: Path = Path()

    def inv(self, *args: str, **options: Any) -> Ran:
        return super().inv(*args, **{"hosts": self.own, **options})


class Hosts:
    """That hosts file, which a test may change for itself."""

    def __init__(self, lab) -> None:
        self.path = lab.directory / "hosts-container.yaml"
        self.data = yaml.safe_load(lab.hosts_file.read_text())
        self.set({"backup": {"mode": "container"}})

    def set(self, changes: dict[str, Any]) -> None:
        self.data = merged(self.data, changes)
        self.path.write_text(yaml.safe_dump(self.data))


@pytest.fixture(scope="module")
def hosts(lab):
    made = Hosts(lab)
    yield made
    made.path.unlink()


@pytest.fixture(scope="module")
def inside(product, lab, hosts, stamp):
    """The mode is changed: the host's backup (`stamp` is of it) is a container's from now on."""
    container = container_of(lab, "db1", DB)
    made = InContainer(product.lab, product.secrets, hosts.path)
    ran = made.ok("backup.install", timeout=900)
    # Built on the db host, copied to the app host.
    assert "db1: building swarmkeep/backup:" in ran.out
    assert "app1: copying swarmkeep/backup:" in ran.out
    assert "db1: removed /etc/cron.d/backup-pg" in ran.out
    assert "db1: ready: the bucket can be written, the database answers" in ran.out
    assert "app1: ready: the bucket can be written, NocoDB's files are here" in ran.out
    assert container_of(lab, "db1", DB) == container, "nothing was restarted"
    yield made
    made.ok("backup.uninstall")
    product.ok("backup.install")


@pytest.fixture
def preloaded(lab, inside) -> None:
    """The AWS CLI in forks of a process that has imported it, until the containers are new ones."""
    put = "cat > /usr/local/bin/aws; chmod 755 /usr/local/bin/aws"
    for node, service in (("db1", DATABASE), ("app1", FILES)):
        into = ("docker", "exec", "-i", container_of(lab, node, service), "sh", "-c", put)
        text = Path(preloaded_aws.__file__).read_bytes()
        assert lab.exec(node, *into, input=text).returncode == 0


@pytest.fixture
def place(lab, inside):
    return backup_place.InContainer(lab)


@pytest.fixture
def installed(inside) -> None:
    """What the faults ask for first."""


def enter(lab, *words: str, node: str = "db1", service: str = DATABASE):
    """Run something in the backup's container."""
    return lab.exec(node, "docker", "exec", container_of(lab, node, service), *words)


def last_set(product) -> str:
    data = json.loads(product.ok("backup.list", "--json", "--limit", "1").out)
    return str(data["backups"][0]["set"])


def test_moved_nothing_of_the_hosts_backup_is_left_and_a_second_time_nothing_changes(inside, lab):
    left = lab.exec("db1", "sh", "-c", "ls /etc/*backup-pg* /usr/local/bin /etc/cron.d")
    assert "backup-pg" not in left.stdout.decode()
    ran = inside.ok("backup.install")
    assert "converged, nothing to change" in ran.out
    assert "removed" not in ran.out


def test_it_has_no_docker_socket_and_shows_no_secret(inside, lab):
    for node, service in (("db1", DATABASE), ("app1", FILES)):
        told = docker(lab, node, "inspect", container_of(lab, node, service))
        assert "docker.sock" not in told
        for secret in inside.secrets:
            assert secret not in told
    assert enter(lab, "sh", "-c", "command -v docker").returncode != 0
    modes = enter(lab, "sh", "-c", "stat -c %a /run/secrets/*").stdout.decode().split()
    assert set(modes) == {"400"}


@pytest.mark.parametrize("case", AS_ON_THE_HOST, ids=lambda case: case.__name__)
def test_as_on_the_host(case, inside, preloaded, request):
    def given(name: str) -> object:
        return inside if name == "product" else request.getfixturevalue(name)

    case(**{name: given(name) for name in inspect.signature(case).parameters})


def test_restored_beside_drilled_and_in_place_of_the_live_one(inside, lab, rows):
    assert "as recorded" in inside.ok("backup.restore", "--into", "beside").out
    assert "beside" in databases(lab)
    assert "as recorded" in inside.ok("backup.drill").out
    # The throwaway server has gone with all its files.
    assert enter(lab, "sh", "-c", "ls -A /var/lib/postgresql/data").stdout == b""
    refused = inside.fails(2, "backup.drill", "--app")
    assert "a drill with an app needs Docker" in refused.err
    sql(lab, "DELETE FROM nc_users_v2", "nocodb")
    inside.ok("backup.restore", "--replace", "--yes", timeout=600)
    eventually(lambda: nocodb_shows(lab, rows), 60)
    assert len(named(lab, "nocodb_replaced_")) == 1


def test_point_in_time_recovery(inside, lab, hosts):
    hosts.set({"backup": {"pitr": True}})
    inside.ok("backup.install")
    try:
        eventually(
            lambda: (
                enter(lab, "test", "-f", "/var/backups/postgres/.wal/newest-base").returncode == 0
            ),
            180,
        )
        sql(lab, "CREATE TABLE work AS SELECT n FROM generate_series(1, 1000) n", "nocodb")
        when = now()
        inside.ok("backup.mark", "before")
        sql(lab, "DROP TABLE work", "nocodb")
        config = ("--config", "/run/secrets/backup_settings")

        def archived() -> bool:
            return enter(lab, "wal-pg.sh", "archive", *config).returncode == 0

        eventually(archived, 90)
        ran = inside.ok("backup.restore", "--at", when, "--into", "then")
        assert "as recorded" in ran.out
        assert sql(lab, "SELECT count(*) FROM work", "then") == "1000"
        assert "replayed to the end" in inside.ok("backup.drill", "--at", "now").out
        checks = json.loads(inside.inv("doctor", "--json").out)["checks"]
        wal = [one for one in checks if one["name"].startswith("wal")]
        assert wal
        assert all(one["ok"] for one in wal), wal
    finally:
        hosts.set({"backup": {"pitr": None}})
        inside.ok("backup.install")
    slots = sql(lab, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'swarmkeep'")
    assert slots == "0"


def test_its_clock_runs_what_is_due_and_what_was_missed_and_nothing_twice(inside, lab, hosts):
    hosts.set({"backup": {"schedule": "* * * * *", "drill_schedule": "*/2 * * * *"}})
    before = last_set(inside)
    inside.ok("backup.install")
    try:
        eventually(lambda: last_set(inside) > before, 240)
        eventually(lambda: "drill complete" in inside.ok("backup.logs", "--lines", "400").out, 300)
    finally:
        hosts.set({"backup": {"schedule": QUIET["schedule"], "drill_schedule": None}})
        inside.ok("backup.install")
    # The schedule is nightly again, and last night's is there: a restart runs nothing.
    newest = last_set(inside)
    docker(lab, "db1", "kill", container_of(lab, "db1", DATABASE))
    eventually(lambda: container_of(lab, "db1", DATABASE) != "", 120)
    said = enter(lab, "python3", "/usr/local/lib/backup-scheduler.py", "--next")
    assert said.stdout.startswith(b"backup 20")
    assert last_set(inside) == newest


def test_killed_while_it_dumps_leaves_nothing_half_done(inside, lab):
    before = last_set(inside)
    config = "--config /run/secrets/backup_settings"
    sql(lab, "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) t "
        "FROM generate_series(1, 300000) n", "nocodb")  # fmt: skip
    try:
        running = container_of(lab, "db1", DATABASE)
        lab.exec("db1", "docker", "exec", "-d", running, "sh", "-c", f"backup-pg.sh {config}")
        eventually(
            lambda: (
                b".partial"
                in enter(
                    lab, "sh", "-c", "ls /var/backups/postgres/nocodb/*.dump.gz.partial; true"
                ).stdout
            ),
            60,
        )
        docker(lab, "db1", "kill", "--signal", "KILL", running)
        eventually(lambda: container_of(lab, "db1", DATABASE) not in ("", running), 120)
    finally:
        sql(lab, "DROP TABLE big", "nocodb")
    assert last_set(inside) == before
    inside.ok("backup.run")
    assert last_set(inside) > before
    left = enter(lab, "sh", "-c", "find /var/backups -name '*.partial*'").stdout
    assert left == b""


def test_a_node_that_is_drained_and_comes_back(inside, lab):
    inside.ok("swarm.drain", "app1", timeout=300)
    try:
        eventually(lambda: container_of(lab, "app1", FILES) == "", 120)
    finally:
        inside.ok("swarm.activate", "app1")
    eventually(lambda: container_of(lab, "app1", FILES) != "", 120)
    eventually(lambda: "appstack_nocodb" in docker(lab, "app1", "ps", "--format", "{{.Names}}"), 90)
    inside.ok("backup.run")
    assert "do not rely on it" not in inside.ok("backup.verify").out


def test_its_volume_is_lost_and_all_that_counts_is_in_the_bucket(inside, lab):
    newest = last_set(inside)
    docker(lab, "manager1", "service", "scale", "--detach", f"{DATABASE}=0")
    eventually(lambda: docker(
        lab, "db1", "ps", "-aq", "--filter", f"label=com.docker.swarm.service.name={DATABASE}"
    ) == "" or remove_ended(lab), 60)  # fmt: skip
    docker(lab, "db1", "volume", "rm", STATE)
    docker(lab, "manager1", "service", "scale", "--detach", f"{DATABASE}=1")
    eventually(lambda: container_of(lab, "db1", DATABASE) != "", 120)
    inside.ok("backup.run")
    assert last_set(inside) > newest
    assert "do not rely on it" not in inside.ok("backup.verify").out


def remove_ended(lab) -> bool:
    """Remove the containers of the service that have ended: they hold the volume."""
    label = f"label=com.docker.swarm.service.name={DATABASE}"
    for one in docker(
        lab, "db1", "ps", "-aq", "--filter", label, "--filter", "status=exited"
    ).split():
        docker(lab, "db1", "rm", "-v", one)
    return False


def test_doctor_knows_it_and_says_when_it_is_of_another_version(inside, lab, hosts):
    checks = json.loads(inside.inv("doctor", "--json").out)["checks"]
    backup = [one for one in checks if one["name"] == "backup"]
    assert [one["ok"] for one in backup] == [True, True], backup
    hosts.set({"images": {"backup": "swarmkeep/backup:other"}})
    try:
        checks = json.loads(inside.inv("doctor", "--json").out)["checks"]
        backup = [one for one in checks if one["name"] == "backup"]
        assert all("this repository's is swarmkeep/backup:other" in one["detail"] for one in backup)
    finally:
        hosts.set({"images": {"backup": None}})


def test_the_password_is_rotated_and_the_backup_knows(inside):
    inside.ok("secrets.rotate", timeout=300)
    inside.ok("backup.run")


def test_what_needs_the_hosts_scripts_is_refused(inside):
    assert "backup.mode is container" in inside.fails(2, "db.reindex").err
    assert "backup.mode is container" in inside.fails(2, "upgrade-db", "17-bookworm").err


def test_moved_back_without_a_missed_night_and_nothing_is_left(product, inside, lab):
    # So that it need not be built again: the layers stay where they have another name, too.
    docker(lab, "db1", "tag", docker(lab, "db1", "images", "-q", BUILT), "kept-for-the-tests")
    try:
        ran = product.ok("backup.install")
        assert "db1: ready: the bucket can be written, the database answers" in ran.out
        assert "removed stack backupstack and its secrets" in ran.out
        eventually(lambda: container_of(lab, "db1", DATABASE) == "", 120)
        for node in ("db1", "app1"):
            volumes = docker(lab, node, "volume", "ls", "-q").split()
            assert not [one for one in volumes if one.startswith("backupstack_")]
            assert docker(lab, node, "images", "-q", BUILT) == ""
        secrets = docker(lab, "manager1", "secret", "ls", "--format", "{{.Name}}").split()
        assert not [one for one in secrets if one.startswith("backupstack_")]
        product.ok("backup.run")
        assert "do not rely on it" not in product.ok("backup.verify").out
    finally:
        inside.ok("backup.install")
        docker(lab, "db1", "rmi", "kept-for-the-tests")


def test_the_database_is_lost_and_recovered(inside, lab, rows):
    inside.ok("backup.run")
    docker(lab, "manager1", "service", "scale", "--detach", f"{DB}=0")
    eventually(lambda: container_of(lab, "db1", DB) == "")
    label = f"label=com.docker.swarm.service.name={DB}"
    for one in docker(lab, "db1", "ps", "-aq", "--filter", label).split():
        docker(lab, "db1", "rm", "-f", "-v", one)
    docker(lab, "db1", "volume", "rm", "dbstack_pgdata")
    docker(lab, "manager1", "service", "scale", "--detach", f"{DB}=1")
    eventually(lambda: answers(lab), 90)
    ran = inside.ok("recover", "--yes", timeout=600)
    # Swarm has made the new cluster with the password of before the rotation.
    assert "nocodb: has the vault's password again" in ran.out
    assert "recovery complete (" in ran.out
    eventually(lambda: nocodb_shows(lab, rows), 60)


def answers(lab) -> bool:
    try:
        return sql(lab, "SELECT 1") == "1"
    except AssertionError:
        return False
