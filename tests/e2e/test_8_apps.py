"""An app beside NocoDB: Kinto, with a database, files and a life of its own. NocoDB's containers
are the same from the first test to the last.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import docker as lab_docker
from lab import images
from lab.progress import Progress
from tests.e2e.conftest import Product, empty, merged
from tests.e2e.live import APP, DB, container_of, databases, docker, eventually, named, sql

KINTO = "kintostack_kinto"
PORT = 8888
ENTRY = "vault_kinto_postgres_password"
RECORDS = "/buckets/shop/collections/orders/records"
COMPOSE = """\
version: "3.8"
services:
  kinto:
    image: ${image}
    command:
      - sh
      - -c
      - >-
        export KINTO_STORAGE_URL="$$(cat /run/secrets/database_url)";
        export KINTO_PERMISSION_URL="$$KINTO_STORAGE_URL";
        kinto migrate && exec kinto start --port 8888
    secrets: [database_url]
    volumes:
      - {type: volume, source: data, target: /data}
    networks: [backend]
    ports:
      - {target: 8888, published: 8888, mode: host}
    healthcheck:
      test:
        - CMD
        - python3
        - -c
        - import urllib.request as r; r.urlopen('http://127.0.0.1:8888/v1/__lbheartbeat__')
      interval: 3s
      timeout: 15s
      retries: 20
      start_period: 90s
    deploy:
      replicas: ${replicas}
      endpoint_mode: dnsrr
      placement:
        constraints: ["node.labels.${role_label} == app"]
      update_config: {order: stop-first, failure_action: rollback, monitor: 5s}
      rollback_config: {order: stop-first}
      restart_policy: {condition: any, delay: 3s}
secrets:
  database_url: {external: true, name: "${secret_database_url}"}
volumes:
  data: {name: "${stack}_data"}
networks:
  backend: {external: true, name: "${network}"}
"""


class Apps:
    """The product with a hosts file and a vault that know Kinto."""

    def __init__(self, product: Product, lab, folder: Path) -> None:
        self.product, self.lab = product, lab
        data = yaml.safe_load(lab.hosts_file.read_text())
        self.vault = lab.directory / "vault-apps.yml"
        shutil.copy(lab.hosts_file.parent / data["vault"]["file"], self.vault)
        self.hosts = lab.directory / "hosts-apps.yaml"
        self.compose = folder / "compose-kinto.yml"
        self.compose.write_text(COMPOSE)
        kinto = {
            "compose": str(self.compose),
            "image": images.KINTO_BEFORE.tag,
            "port": PORT,
            "volumes": "data",
            "health": {"path": "/v1/__heartbeat__"},
        }
        self._write(data, {"vault": {"file": str(self.vault)}, "apps": {"kinto": kinto}})

    def change(self, **changes: Any) -> None:
        """Change what hosts.yaml says of Kinto."""
        self._write(yaml.safe_load(self.hosts.read_text()), {"apps": {"kinto": changes}})

    def change_backup(self, **changes: Any) -> None:
        """Change what hosts.yaml says of backups."""
        self._write(yaml.safe_load(self.hosts.read_text()), {"backup": changes})

    def _write(self, data: dict[str, Any], changes: dict[str, Any]) -> None:
        self.hosts.write_text(yaml.safe_dump(merged(data, changes), sort_keys=False))

    def ok(self, *args: str) -> str:
        return self.product.ok(*args, hosts=self.hosts).out

    def fails(self, code: int, *args: str) -> str:
        return self.product.fails(code, *args, hosts=self.hosts).text

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """A request to Kinto's own API; returns what it answers with."""
        url = f"http://{self.lab.addresses['app1']}:{PORT}/v1{path}"
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        headers = {"Content-Type": kind}
        request = urllib.request.Request(
            url, None if method == "GET" else data, headers, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def put(self, number: int) -> None:
        """An order, acknowledged."""
        self.ask("PUT", f"{RECORDS}/order-{number}", {"data": {"number": number}})

    def version(self) -> str:
        return str(self.ask("GET", "/")["project_version"])

    def orders(self) -> set[int]:
        return {one["number"] for one in self.ask("GET", RECORDS)["data"] if "number" in one}


@pytest.fixture(scope="module")
def apps(rows, product, lab, tmp_path_factory) -> Iterator[Apps]:
    with Progress(print) as progress:
        images.ensure(progress, (images.KINTO_BEFORE, images.KINTO))
    tags = (images.KINTO_BEFORE.tag, images.KINTO.tag)
    for node in ("app1", "db1"):  # the latter for drills
        load = ("exec", "--interactive", lab.container(node), "docker", "load")
        lab_docker.pipe(("save", *tags), load)
    made = Apps(product, lab, tmp_path_factory.mktemp("apps"))
    yield made
    for node in ("app1", "db1"):
        docker(lab, node, "image", "rm", "--force", *tags)
    made.hosts.unlink()
    made.vault.unlink()


@pytest.fixture(scope="module")
def others(apps, lab) -> dict[str, str]:
    """The containers of NocoDB and of the database, which nothing here may touch."""
    return {"app1": container_of(lab, "app1", APP), "db1": container_of(lab, "db1", DB)}


@pytest.fixture(autouse=True)
def untouched(lab, others) -> Iterator[None]:
    yield
    assert container_of(lab, "app1", APP) == others["app1"]
    assert container_of(lab, "db1", DB) == others["db1"]


def vault_entries(apps: Apps) -> str:
    return apps.ok("secrets.view")


def test_planned_then_deployed_with_a_role_and_a_database_of_its_own(apps, lab):
    ran = apps.product.inv("plan", "--stack", "kinto", hosts=apps.hosts)
    assert ran.code == 5
    for text in ("role kinto", "database kinto", "secret kintostack_database_url", KINTO):
        assert text in ran.out
    assert f"{ENTRY} would be made" in ran.err
    assert ENTRY not in vault_entries(apps)
    said = apps.ok("deploy-app", "kinto")
    assert f"set {ENTRY}" in said
    assert "role kinto: created" in said
    assert "database kinto: created, owner kinto" in said
    assert "kinto answers /v1/__heartbeat__ with 200" in said
    assert "kept as release 1" in said
    assert ENTRY in vault_entries(apps)
    owner = "SELECT pg_get_userbyid(datdba), datacl FROM pg_database WHERE datname = 'kinto'"
    assert sql(lab, owner).startswith("kinto|{kinto=")  # nobody else connects
    assert sql(lab, "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = 'kinto'") == "f"
    assert KINTO in apps.ok("status")
    assert "nothing to do" in apps.ok("plan")
    assert "converged, nothing to change" in apps.ok("deploy-app", "kinto")
    password = apps.ok("secrets.view", "--reveal", "--name", ENTRY).strip()
    for what in (docker(lab, "manager1", "service", "inspect", KINTO), said):
        assert password not in what


def test_its_database_and_its_files_are_backed_up(apps, lab, bucket):
    apps.ask("PUT", "/buckets/shop")
    apps.ask("PUT", "/buckets/shop/collections/orders")
    for number in range(20):
        apps.put(number)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="attachment"; filename="a.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\nan invoice\r\n--x--\r\n"
    )
    apps.ask("POST", f"{RECORDS}/order-1/attachment", body, "multipart/form-data; boundary=x")
    apps.ok("backup.install")
    apps.ok("backup.run")
    verdict = json.loads(apps.ok("backup.verify", "--database", "kinto", "--json"))
    checks = {check["name"]: check["ok"] for check in verdict["checks"]}
    assert checks["files kintostack_data app1"]
    prefix = "files/kintostack_data/data/"
    found = bucket.list_objects_v2(Bucket=lab.bucket, Prefix=prefix)["Contents"]
    bodies = [bucket.get_object(Bucket=lab.bucket, Key=one["Key"])["Body"].read() for one in found]
    assert b"an invoice" in bodies
    listed = json.loads(apps.ok("backup.list", "--database", "kinto", "--json"))
    assert listed["backups"][0]["manifest"]["owner"] == "kinto"


def test_a_drill_starts_it_on_what_was_restored(apps, lab, bucket):
    drill = ("backup.drill", "--database", "kinto", "--app")
    assert "set backup.drill_with_app: true" in apps.fails(1, *drill)
    apps.change_backup(drill_with_app=True)
    assert "/etc/backup-pg.apps" in apps.ok("backup.install")
    assert ", kinto answered (" in apps.ok(*drill)
    found = bucket.get_object(Bucket=lab.bucket, Key="postgres/kinto/drill.json")["Body"].read()
    assert json.loads(found)["app"] is True
    # What the running app and its role can do, this one cannot: it never saw their password.
    password = apps.ok("secrets.view", "--reveal", "--name", ENTRY).strip()
    assert password not in lab.exec("db1", "cat", "/etc/backup-pg.apps").stdout.decode()
    good = apps.compose.read_text()
    apps.compose.write_text(good.replace("exec kinto start", "exec false"))
    apps.ok("backup.install")
    said = apps.fails(1, *drill)
    assert "kinto does not answer from what was restored: /v1/__heartbeat__: no answer" in said
    assert docker(lab, "db1", "ps", "-aq", "--filter", "label=swarmkeep.drill") == ""
    apps.compose.write_text(good)
    apps.ok("backup.install")
    assert "drilled: " in apps.ok("backup.drill", "--database", "kinto")
    apps.change_backup(drill_with_app=False)
    assert "/etc/backup-pg.apps" in apps.ok("backup.install")
    assert lab.exec("db1", "ls", "/etc/backup-pg.apps").returncode != 0


def test_another_version_then_back_then_one_that_does_not_start(apps, lab):
    apps.change(image=images.KINTO.tag)
    assert "kept as release 2" in apps.ok("deploy-app", "kinto")
    assert apps.orders() == set(range(20))
    assert apps.version() == "26.5.0"
    apps.ok("rollback", "kinto")
    assert apps.version() == "25.0.3"
    assert apps.orders() == set(range(20))
    good = apps.compose.read_text()
    apps.compose.write_text(good.replace("kinto migrate &&", "exit 7;"))
    said = apps.fails(1, "deploy-app", "kinto")
    assert f"{KINTO}: " in said
    eventually(lambda: answers(apps))
    assert apps.version() == "25.0.3"
    apps.compose.write_text(good)
    apps.ok("deploy-app", "kinto")
    assert apps.version() == "26.5.0"


def answers(apps: Apps) -> bool:
    try:
        return apps.orders() == set(range(20))
    except OSError:
        return False


def test_a_new_password_for_its_role_alone(apps, lab):
    before = apps.ok("secrets.view", "--reveal", "--name", ENTRY)
    nocodb = sql(lab, "SELECT rolpassword FROM pg_authid WHERE rolname = 'nocodb'")
    said = apps.ok("secrets.rotate", "kinto")
    assert "rotated the password of kinto" in said
    assert "kinto answers /v1/__heartbeat__ with 200" in said
    assert apps.ok("secrets.view", "--reveal", "--name", ENTRY) != before
    assert sql(lab, "SELECT rolpassword FROM pg_authid WHERE rolname = 'nocodb'") == nocodb
    assert apps.orders() == set(range(20))


def test_another_database_takes_the_place_of_its_own_while_it_alone_pauses(apps, lab):
    apps.put(99)
    said = apps.ok("backup.restore", "--database", "kinto", "--replace", "--yes")
    assert f"{KINTO}: stopping it" in said
    assert "appstack_nocodb" not in said
    assert apps.orders() == set(range(20))
    kept = named(lab, "kinto_replaced_")[0]
    apps.ok("backup.swap", kept, "--database", "kinto", "--yes")
    assert apps.orders() == {*range(20), 99}
    for name in named(lab, "kinto_"):
        sql(lab, f'DROP DATABASE "{name}"')


def test_its_database_is_lost_and_recovered(apps, lab):
    apps.ok("backup.run")
    sql(lab, "DROP DATABASE kinto WITH (FORCE)")
    assert "kinto" not in databases(lab)
    # That would hide the loss.
    said = apps.fails(2, "deploy-app", "kinto")
    assert "PostgreSQL has no database kinto: the deploy would begin an empty one" in said
    docker(lab, "app1", "exec", container_of(lab, "app1", KINTO), "sh", "-c", "rm /data/*.txt")
    said = apps.ok("recover", "--yes")
    assert "nocodb is there" in said
    assert "recovered: kinto" in said
    # Nothing was there that could be kept.
    assert "is kept as" not in said
    assert apps.orders() == {*range(20), 99}
    files = docker(
        lab, "app1", "exec", container_of(lab, "app1", KINTO), "sh", "-c", "cat /data/*.txt"
    )
    assert files == "an invoice"


def test_removed_and_what_is_left_is_told(apps, lab, bucket):
    assert "there is no terminal to ask on" in apps.fails(2, "app.remove", "kinto")
    said = apps.ok("app.remove", "kinto", "--yes")
    assert "left in place: database kinto, role kinto, volume kintostack_data" in said
    eventually(lambda: container_of(lab, "app1", KINTO) == "", 60)
    for kind in ("service", "secret", "config"):
        assert "kinto" not in docker(lab, "manager1", kind, "ls", "--format", "{{.Name}}")
    assert "kinto" in databases(lab)
    assert "nothing to remove" in apps.ok("app.remove", "kinto", "--yes")
    # As its message says, and what no command removes.
    sql(lab, "DROP DATABASE kinto")
    sql(lab, "DROP ROLE kinto")
    eventually(
        lambda: lab.exec("app1", "docker", "volume", "rm", "kintostack_data").returncode == 0, 60
    )
    apps.product.ok("backup.install")
    empty(bucket, lab, "postgres/kinto/", "files/kintostack_data/")
    assert "nothing to do" in apps.product.ok("plan").out
