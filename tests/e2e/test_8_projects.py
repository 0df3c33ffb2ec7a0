"""Two complete projects beside each other: one Swarm, one bucket, databases of one name.

Whatever happens to the second, the first one's containers and files stay as they are.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabfile.s3.policies import policies
from lab import s3
from lab.model import NOCODB_PORT, REGION
from lab.nocodb_api import NocoDB
from tests.e2e.live import APP, DB, container_of, docker, eventually, nocodb_shows

NAME = "staging"
DB2, APP2 = f"{NAME}-dbstack_root_db", f"{NAME}-appstack_nocodb"
PREFIX = f"{NAME}/postgres/nocodb/backup_"
COLUMNS = [{"title": "Title", "column_name": "title", "uidt": "SingleLineText"}]


@pytest.fixture(scope="module", autouse=True)
def first(stamp, lab) -> Iterator[dict[str, Any]]:
    """The first project, deployed, filled and backed up; it is the same at the end."""
    before = state_of_first(lab)
    assert all(before["containers"])
    yield before
    assert state_of_first(lab) == before


def state_of_first(lab) -> dict[str, Any]:
    """What must never change of the first project: containers, node labels, files on hosts."""
    node = json.loads(docker(lab, "manager1", "node", "inspect", "db1"))[0]
    labels = {k: v for k, v in node["Spec"]["Labels"].items() if NAME not in k}
    files = {
        member: lab.exec(
            member, "sh", "-c", "cat /etc/backup-*s.conf /etc/backup-pg.conf /etc/cron.d/backup-*s "
            "/etc/cron.d/backup-pg 2>/dev/null"
        ).stdout
        for member in ("db1", "app1")
    }  # fmt: skip
    return {
        "containers": (container_of(lab, "db1", DB), container_of(lab, "app1", APP)),
        "labels": labels,
        "files": files,
    }


@pytest.fixture(scope="module")
def second(lab, bucket, product) -> Iterator[Path]:
    """The hosts file of a second project, whose vault has a name key of its own."""
    import yaml

    vault = lab.directory / f"vault-{NAME}.yml"
    vault.write_bytes((lab.directory / "vault.yml").read_bytes())
    data = yaml.safe_load(lab.hosts_file.read_text())
    for key in ("stacks", "db_service_name"):
        data.pop(key)
    data |= {"project": NAME, "vault": data["vault"] | {"file": vault.name}}
    data["app"] |= {"port": NOCODB_PORT + 1, "public_url": None}
    data["app"].pop("public_url")
    hosts = lab.directory / f"hosts-{NAME}.yaml"
    hosts.write_text(yaml.safe_dump(data))
    product.ok("secrets.set", "vault_name_key", hosts=hosts, stdin=secrets.token_hex(16))
    # Its nodes get what 'inv bucket.policies' prints for it, beside what the first one has.
    node = {"Principal": s3.principal(s3.NODE)}
    policy = json.loads(s3.policy(lab.bucket))
    printed = policies(lab.bucket, REGION, prefix=f"{NAME}/")["node"]["Statement"]
    policy["Statement"] += [{**one, **node} for one in printed]
    bucket.put_bucket_policy(Bucket=lab.bucket, Policy=json.dumps(policy))
    yield hosts
    product.ok("backup.uninstall", hosts=hosts)
    docker(lab, "manager1", "stack", "rm", f"{NAME}-appstack", f"{NAME}-dbstack")
    eventually(lambda: not containers(lab))
    remove_volumes(lab)
    for node_name in ("db1", "app1"):
        found = json.loads(docker(lab, "manager1", "node", "inspect", node_name))[0]
        ours = [key for key in found["Spec"]["Labels"] if NAME in key]
        words = [word for key in ours for word in ("--label-rm", key)]
        docker(lab, "manager1", "node", "update", *words, node_name)
    bucket.put_bucket_policy(Bucket=lab.bucket, Policy=s3.policy(lab.bucket))
    vault.unlink()
    hosts.unlink()


def containers(lab) -> str:
    """Ids of every container of the second project, running or not."""
    found = [
        docker(
            lab, member, "ps", "-aq", "--filter", f"label=com.docker.swarm.service.name={service}"
        )
        for member, service in (("db1", DB2), ("app1", APP2))
    ]
    return "".join(found)


def remove_volumes(lab) -> None:
    docker(lab, "db1", "volume", "rm", f"{NAME}-dbstack_pgdata")
    docker(lab, "app1", "volume", "rm", f"{NAME}-appstack_data")


@pytest.fixture(scope="module")
def beside(second, product, lab) -> Path:
    """The second project is deployed, has data of its own, and a backup made by its cron entry."""
    product.ok("deploy", hosts=second)
    server = NocoDB(f"http://{lab.addresses['app1']}:{NOCODB_PORT + 1}")
    server.sign_up("ann@staging.example.com", lab.secrets["postgres_password"])
    table = server.table(server.base("Trial"), "Things", COLUMNS)
    server.insert(table, [{"Title": "only here"}])
    product.ok("backup.install", hosts=second)
    run_cron_line(lab, "db1", f"backup-pg-{NAME}")
    run_cron_line(lab, "app1", f"backup-files-{NAME}")
    return second


def run_cron_line(lab, member: str, name: str) -> None:
    """Run what cron would run at night, as cron does: by sh, with nothing in the environment."""
    line = lab.exec(member, "grep", "-m", "1", " root ", f"/etc/cron.d/{name}").stdout.decode()
    command = line.partition(" root ")[2].strip()
    done = lab.exec(member, "env", "-i", "/bin/sh", "-c", command, timeout=300)
    log = lab.exec(member, "tail", "-n", "5", f"/var/log/{name}.log").stdout.decode()
    assert done.returncode == 0, log


def stamps(bucket, lab, prefix: str) -> set[str]:
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix).partition(".")[0]
        for item in found
        if item["Key"].endswith(".manifest.json")
    }


def checks(product, hosts=None, code: int = 0) -> dict[str, Any]:
    ran = product.inv("backup.verify", "--json", hosts=hosts)
    assert ran.code == code, ran.text
    return {check["name"]: check for check in json.loads(ran.out)["checks"]}


def test_both_run_each_with_its_own_labels_files_and_sets(beside, product, lab, bucket, rows):
    assert "nothing to do" in product.ok("plan", hosts=beside).out
    assert "nothing to do" in product.ok("plan").out
    assert nocodb_shows(lab, rows)
    assert len(stamps(bucket, lab, PREFIX)) == 1
    mine, theirs = checks(product), checks(product, beside)
    assert mine["found"]["detail"] != theirs["found"]["detail"]
    assert f"project {NAME}" in theirs["project"]["detail"]
    assert "without a name" in mine["project"]["detail"]


def test_doctor_and_status_tell_who_is_beside_whom(beside, product):
    found = json.loads(product.ok("doctor", "--json").out)["checks"]
    project = next(check for check in found if check["name"] == "project")
    assert f"beside it on this Swarm: project {NAME}" in project["detail"]
    names = [s["name"] for s in json.loads(product.ok("status", "--json").out)["services"]]
    assert names == [DB, APP]


def test_the_second_without_its_name_is_refused_everywhere(beside, product, lab, first):
    """Seen: it took the first one's label and settings, and nobody was told."""
    plain = lab.directory / f"hosts-{NAME}-plain.yaml"
    text = beside.read_text().replace(f"project: {NAME}\n", "")
    plain.write_text(f"stacks: {{db: {NAME}-dbstack, app: {NAME}-appstack}}\n{text}")
    try:
        ran = product.fails(2, "deploy-db", "--yes", hosts=plain)
        assert "they would share labels and files" in ran.text
        assert "project: NAME" in ran.text
        ran = product.fails(2, "backup.install", hosts=plain)
        assert "is of another project" in ran.text
        product.fails(2, "backup.run", hosts=plain)
        product.fails(2, "backup.uninstall", hosts=plain)
    finally:
        plain.unlink()
    assert state_of_first(lab) == first


def test_stacks_of_the_first_are_not_taken(beside, product, lab, first):
    taking = lab.directory / f"hosts-{NAME}-taking.yaml"
    taking.write_text(f"stacks: {{db: dbstack, app: appstack}}\n{beside.read_text()}")
    try:
        for command in ("deploy-db", "deploy-app"):
            ran = product.fails(2, command, "--yes", hosts=taking)
            assert "dbstack: belongs to the project without a name" in ran.text
    finally:
        taking.unlink()
    assert state_of_first(lab) == first


def test_a_drill_and_a_prune_of_the_second_are_about_its_own(beside, product, lab, bucket):
    ours = stamps(bucket, lab, "postgres/nocodb/backup_")
    product.ok("backup.drill", hosts=beside)
    assert "drilled" in checks(product, beside)["proven"]["detail"]
    assert "drilled" not in checks(product)["proven"]["detail"]
    policy = {"keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0, "keep_min": 1}
    pruning = lab.directory / f"hosts-{NAME}-pruning.yaml"
    import yaml

    data = yaml.safe_load(beside.read_text())
    pruning.write_text(yaml.safe_dump(data | {"backup": data["backup"] | policy}))
    try:
        run_cron_line(lab, "db1", f"backup-pg-{NAME}")
        assert len(stamps(bucket, lab, PREFIX)) == 2
        # The older one is the newest drilled: it stays, too.
        run_cron_line(lab, "db1", f"backup-pg-{NAME}")
        product.ok("backup.prune", "--yes", hosts=pruning)
    finally:
        pruning.unlink()
    assert len(stamps(bucket, lab, PREFIX)) == 2
    assert stamps(bucket, lab, "postgres/nocodb/backup_") == ours


def test_the_second_is_lost_and_recovered_beside_the_first(beside, product, lab, rows):
    docker(lab, "manager1", "stack", "rm", f"{NAME}-appstack", f"{NAME}-dbstack")
    eventually(lambda: not containers(lab))
    remove_volumes(lab)
    # An empty database is not deployed in the lost one's place.
    ran = product.fails(2, "deploy-db", "--yes", hosts=beside)
    assert "inv recover" in ran.text
    product.ok("recover", "--yes", hosts=beside, timeout=600)
    server = NocoDB(f"http://{lab.addresses['app1']}:{NOCODB_PORT + 1}")
    server.sign_in("ann@staging.example.com", lab.secrets["postgres_password"])
    table = server.table(server.base("Trial"), "Things", COLUMNS)
    assert [row["Title"] for row in server.records(table)] == ["only here"]
    assert "nothing to do" in product.ok("plan", hosts=beside).out
    # It is another cluster now, which the recovery itself has accepted.
    run_cron_line(lab, "db1", f"backup-pg-{NAME}")
    assert checks(product, beside)["cluster"]["ok"]
    assert nocodb_shows(lab, rows)


def test_another_cluster_in_the_night_fails_verify_until_a_person_accepts_it(
    beside, product, lab, bucket
):
    """As after a deploy of an earlier version that had begun an empty database."""
    folder = f"/var/backups/postgres-{NAME}/nocodb"
    newest = lab.exec("db1", "sh", "-c", f"ls {folder}/*.manifest.json | tail -n 1").stdout
    lab.exec(
        "db1", "sed", "-i", 's/"expected_cluster": "[0-9]*"/"expected_cluster": "7000"/',
        newest.decode().strip(),
    )  # fmt: skip
    bucket.delete_object(Bucket=lab.bucket, Key=f"{NAME}/postgres/nocodb/cluster.json")
    run_cron_line(lab, "db1", f"backup-pg-{NAME}")
    log = lab.exec("db1", "tail", "-n", "9", f"/var/log/backup-pg-{NAME}.log").stdout.decode()
    assert "the last set was of cluster 7000; next: 'inv backup.accept'" in log
    assert not checks(product, beside, code=4)["cluster"]["ok"]
    product.fails(2, "backup.accept", hosts=beside)
    product.ok("backup.accept", "--yes", hosts=beside)
    assert checks(product, beside)["cluster"]["ok"]


def test_the_second_goes_and_the_nights_of_the_first_go_on(beside, product, lab, bucket, rows):
    before = stamps(bucket, lab, "postgres/nocodb/backup_")
    removed = product.ok("backup.uninstall", hosts=beside).out
    assert f"/etc/cron.d/backup-pg-{NAME}" in removed
    assert "/usr/local/bin" not in removed
    assert lab.exec("db1", "sh", "-c", f"ls /etc/*/*{NAME}* /etc/*{NAME}*").stdout == b""
    run_cron_line(lab, "db1", "backup-pg")
    run_cron_line(lab, "app1", "backup-files")
    assert len(stamps(bucket, lab, "postgres/nocodb/backup_") - before) == 1
    assert all(check["ok"] for check in checks(product).values())
    assert nocodb_shows(lab, rows)
