"""The reverse proxy in front of NocoDB: switched on and off, and changes that no client notices."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base.errors import SwarmkeepError
from lab import demo, images, ledger
from lab import docker as lab_docker
from lab.ledger import Ledger
from lab.progress import Progress
from tests.e2e import small_app
from tests.e2e.conftest import merged
from tests.e2e.live import APP, DB, container_of, docker, eventually, nocodb_shows, sql
from tests.e2e.test_3_compose import checkout
from tests.e2e.test_8_recover import remove_stacks
from tests.e2e.test_8_upgrade_db import removal, remove

__all__ = ["checkout"]  # the fixture

PROXY = "proxystack_caddy"
NEXT, BAD = "0.301.4", "0.301.5"

pytestmark = pytest.mark.timeout(900)


def load(lab, node: str, tag: str) -> None:
    lab_docker.pipe(("save", tag), ("exec", "--interactive", lab.container(node), "docker", "load"))


def volume_is_removed(lab, node: str, name: str) -> None:
    """A volume goes, with the ended containers of former tasks that hold it."""
    holders = f"docker ps -aq --filter volume={name} --filter status=exited"
    script = f"{holders} | xargs -r docker rm -v; docker volume rm --force {name}"
    eventually(lambda: lab.exec(node, "sh", "-c", script).returncode == 0, 60)


@pytest.fixture(scope="module")
def url(lab) -> str:
    """NocoDB's address behind the proxy: the name is the node's address, which needs no DNS."""
    return f"http://{lab.addresses['app1']}"


@pytest.fixture(scope="module")
def hosts(deployed, product, lab, rows, stamp) -> Iterator[Path]:
    """A hosts file with a proxy on the app host; afterwards there is none."""
    with Progress(print) as progress:
        images.ensure(progress, (images.CADDY,))
    load(lab, "app1", images.CADDY.tag)
    path = lab.directory / "hosts-proxy.yaml"
    changes: dict[str, Any] = {
        "images": {"proxy": images.CADDY.tag},
        "app": {"domain": lab.addresses["app1"], "public_url": None},
        "proxy": {"certificates": "none"},
    }
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(lab.hosts_file.read_text()), changes)))
    tags = [f"{images.NOCODB.tag.rpartition(':')[0]}:{version}" for version in (NEXT, BAD)]
    docker(lab, "app1", "tag", images.NOCODB.tag, tags[0])
    fails = f'FROM {images.NOCODB.tag}\nCMD ["false"]\n'
    done = lab.exec("app1", "docker", "build", "--tag", tags[1], "-", input=fails.encode())
    assert done.returncode == 0, done.stderr
    yield path
    product.ok("deploy-app")
    product.inv("proxy.remove")
    volume_is_removed(lab, "app1", "proxystack_data")
    docker(lab, "app1", "image", "rm", "--force", *tags, images.CADDY.tag)
    path.unlink()


def changed(hosts: Path, changes: dict[str, Any]) -> Path:
    path = hosts.with_name("hosts-proxy-changed.yaml")
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(hosts.read_text()), changes)))
    return path


@pytest.fixture
def client(lab, url) -> Iterator[Ledger]:
    """A client that asks a hundred times a second; at its end all is accounted for."""
    server = demo.login(lab, url)
    table = server.table(server.base("Ledger"), f"T{time.time_ns()}", ledger.COLUMNS)
    made = Ledger(server, lab.addresses["app1"], table)
    with made:
        made.let_pass()
        yield made
        made.let_pass()
    found = ledger.numbers(server, table)
    assert len(found) == len(set(found)), "written twice"
    assert made.acknowledged <= set(found), "acknowledged, and lost"
    print(f"asked {made.asked}, failed {len(made.failures)}, longest {made.longest:.1f} s")


def test_switched_on_with_one_restart_of_the_app(product, lab, hosts, url, rows):
    database, app = container_of(lab, "db1", DB), container_of(lab, "app1", APP)
    # Without the proxy's network there is no way in.
    refused = product.fails(1, "deploy-app", hosts=hosts)
    assert "proxystack: does not run" in refused.err
    planned = product.inv("plan", hosts=hosts)
    assert planned.code == 5
    assert f"{PROXY}" in planned.out
    ran = product.ok("deploy", "--yes", hosts=hosts)
    assert f"proxystack: app1 answers for {lab.addresses['app1']}; the app does not" in ran.out
    assert f"appstack: NocoDB answers for {lab.addresses['app1']} on app1" in ran.out
    assert container_of(lab, "db1", DB) == database
    assert container_of(lab, "app1", APP) != app
    assert demo.records(lab, url) == rows
    # A release that published a port would leave the domain without an app.
    refused = product.fails(2, "rollback", "app", hosts=hosts)
    assert "published a port of its own" in refused.err
    refused = product.fails(1, "swarm.drain", "app1", hosts=hosts)
    assert "app1: has the only proxy" in refused.err
    with pytest.raises(SwarmkeepError, match="refused"):
        demo.records(lab)
    assert "nothing to do" in product.ok("plan", hosts=hosts).out
    assert "proxystack" in product.ok("status", hosts=hosts).out
    checks = json.loads(product.inv("doctor", "--json", hosts=hosts).out)["checks"]
    found = {one["name"]: one for one in checks if one["group"] == "proxy"}
    assert set(found) == {"domain", "answers app1"}
    assert all(one["ok"] for one in found.values()), found
    # A domain that the proxy does not know yet: it answers, and not for that one.
    renamed = changed(hosts, {"app": {"domain": "other.test"}})
    checks = json.loads(product.inv("doctor", "--json", hosts=renamed).out)["checks"]
    [one] = [one for one in checks if one["name"] == "answers app1"]
    assert not one["ok"]
    assert "answers, but not for other.test" in one["detail"]


def test_another_app_behind_it_with_a_domain_of_its_own(product, lab, hosts, url, rows, tmp_path):
    domain, compose = "echo.example.com", tmp_path / "echo.yml"
    compose.write_text(small_app.compose("echo", small_app.ECHO, "one"))
    both = changed(hosts, {})
    vault = small_app.add(lab, both, compose, "echo", domain=domain, health={"path": "/"})
    said = product.ok("deploy", "--yes", hosts=both).out
    assert "echo answers / with 200" in said

    def ask() -> tuple[int, str | None]:
        connection = http.client.HTTPConnection(lab.addresses["app1"], timeout=30)
        connection.request("GET", "/", headers={"Host": domain})
        answer = connection.getresponse()
        found = (answer.status, answer.getheader("X-Setting"))
        answer.read()
        connection.close()
        return found

    assert ask() == (200, "one")
    assert demo.records(lab, url) == rows
    app, answers, over = container_of(lab, "app1", APP), [], threading.Event()

    def browse() -> None:
        while not over.wait(0.02):
            answers.append(ask())

    thread = threading.Thread(target=browse)
    thread.start()
    try:
        compose.write_text(small_app.compose("echo", small_app.ECHO, "two"))
        product.ok("deploy-app", "echo", hosts=both)
        eventually(lambda: answers[-1] == (200, "two"), 30)
    finally:
        over.set()
        thread.join()
    assert set(answers) == {(200, "one"), (200, "two")}
    assert container_of(lab, "app1", APP) == app
    product.ok("app.remove", "echo", "--yes", hosts=both)
    product.ok("deploy-proxy", hosts=hosts)
    sql(lab, "DROP DATABASE echo")
    sql(lab, "DROP ROLE echo")
    vault.unlink()


def test_the_proxy_has_what_it_needs_and_no_more(lab, hosts):
    container = container_of(lab, "app1", PROXY)
    [said] = json.loads(docker(lab, "app1", "inspect", container))
    assert said["HostConfig"]["ReadonlyRootfs"]
    assert said["HostConfig"]["CapDrop"] == ["ALL"]
    assert said["HostConfig"]["CapAdd"] in (["NET_BIND_SERVICE"], ["CAP_NET_BIND_SERVICE"])
    assert {mount["Destination"] for mount in said["Mounts"] if mount["RW"]} == {"/data", "/config"}
    assert not any("docker.sock" in str(mount) for mount in said["Mounts"])
    networks = set(said["NetworkSettings"]["Networks"])
    assert networks == {"proxystack_frontend"}
    # PostgreSQL is out of its reach.
    looked = lab.exec("app1", "docker", "exec", container, "getent", "hosts", DB)
    assert looked.returncode != 0


def test_a_configuration_that_caddy_refuses_changes_nothing(product, lab, hosts, checkout):
    before = container_of(lab, "app1", PROXY)
    template = checkout / "compose/Caddyfile.j2"
    template.write_text(template.read_text().replace("encode gzip", "encode nonsense"))
    ran = product.fails(1, "deploy-proxy", hosts=hosts, root=checkout)
    assert "Caddy refuses its configuration" in ran.err
    assert "nothing was changed" in ran.err
    assert container_of(lab, "app1", PROXY) == before
    assert "nothing to do" in product.ok("plan", hosts=hosts).out


def test_no_request_fails_through_new_image_new_setting_rollback_and_a_bad_version(
    product, lab, hosts, client
):
    name = images.NOCODB.tag.rpartition(":")[0]
    seen = {container_of(lab, "app1", APP)}
    new = changed(hosts, {"images": {"nocodb": f"{name}:{NEXT}"}})
    product.ok("deploy-app", hosts=new)
    assert client.failures == [], "new image"
    product.ok("deploy-app", hosts=changed(hosts, {"proxy": {"drain": "11s"}}))
    assert client.failures == [], "new setting"
    product.ok("rollback", "app", hosts=hosts)
    assert client.failures == [], "rollback"
    bad = changed(hosts, {"images": {"nocodb": f"{name}:{BAD}"}})
    product.fails(1, "deploy-app", hosts=bad)
    assert client.failures == [], "a version that does not start"
    product.ok("deploy-app", hosts=hosts)
    assert client.failures == [], "back"
    assert container_of(lab, "app1", APP) not in seen


def test_no_request_fails_while_one_of_two_app_nodes_is_drained(product, lab, hosts, client):
    load(lab, "manager1", images.NOCODB.tag)
    two = changed(
        hosts,
        {
            "hosts": {"manager1": {"role": "app"}},
            "app": {"replicas": 2},
            "proxy": {"hosts": ["app1"]},
            "backup": {"files": False},
        },
    )
    try:
        product.ok("deploy-app", "--leave-data", hosts=two)
        eventually(lambda: container_of(lab, "manager1", APP) != "", 60)
        product.ok("swarm.drain", "manager1", hosts=two)
        assert client.failures == []
        product.ok("swarm.activate", "manager1", hosts=two)
        assert client.failures == []
    finally:
        docker(lab, "manager1", "node", "update", "--availability", "active", "manager1")
        product.ok("deploy-app", "--leave-data", hosts=hosts)
        volume_is_removed(lab, "manager1", "appstack_data")
        docker(lab, "manager1", "image", "rm", "--force", images.NOCODB.tag)
    assert client.failures == []


@contextmanager
def page_is_seen(lab) -> Iterator[None]:
    """A client sees NocoDB, then a page that says when to come back, then NocoDB: nothing else."""
    answers: list[tuple[int, str | None]] = []
    over = threading.Event()

    def browse() -> None:
        while not over.is_set():
            connection = http.client.HTTPConnection(lab.addresses["app1"], timeout=30)
            connection.request("GET", "/api/v1/health")
            answer = connection.getresponse()
            answer.read()
            answers.append((answer.status, answer.getheader("Retry-After")))
            connection.close()
            over.wait(0.2)

    thread = threading.Thread(target=browse)
    thread.start()
    try:
        yield
        eventually(lambda: answers[-1][0] == 200, 60)
    finally:
        over.set()
        thread.join()
    # No connection was refused; what was no answer of NocoDB's said when to come back.
    assert {status for status, _ in answers} == {200, 503}
    assert {again for status, again in answers if status == 503} == {"10"}


@pytest.mark.usefixtures("tidy")
def test_a_page_says_when_to_come_back_while_a_database_is_replaced_or_upgraded(
    product, lab, hosts, url, rows, stamp, postgres_17
):
    impatient = changed(hosts, {"proxy": {"wait": "1s"}})
    product.ok("deploy-proxy", hosts=impatient)
    with page_is_seen(lab):
        product.ok("backup.restore", "--key", stamp, "--replace", "--yes", hosts=impatient)
    assert demo.records(lab, url) == rows
    upgraded = changed(impatient, {})
    product.ok("backup.run", hosts=upgraded)
    product.ok("backup.drill", hosts=upgraded)
    with page_is_seen(lab):
        product.ok("upgrade-db", "17-trixie", "--yes", "--write", hosts=upgraded)
    assert demo.records(lab, url) == rows
    with page_is_seen(lab):
        product.ok("upgrade-db", "--undo", "--yes", "--write", hosts=upgraded)
    assert demo.records(lab, url) == rows
    remove(lab, removal("dbstack_pgdata_17"))
    # What the newer version has backed up, this one could not restore.
    product.ok("backup.run", hosts=hosts)
    # The release before, whose configuration is in the Swarm and nowhere else.
    product.ok("rollback", "proxy", hosts=hosts)
    assert "nothing to do" in product.ok("plan", hosts=hosts).out


def test_another_version_stops_the_old_one_first(product, lab, hosts, url, rows):
    """They never meet on tables that the new one may change; then all is as hosts.yaml has it."""
    path = changed(hosts, {})
    ran = product.ok("upgrade-app", NEXT, "--write", hosts=path)
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "update_config.Order start-first stop-first" in lines
    assert "update_config.Order stop-first start-first" in lines
    assert ran.out.count("kept as release") == 1
    assert "nothing to do" in product.ok("plan", hosts=path).out
    assert demo.records(lab, url) == rows
    product.ok("deploy-app", hosts=hosts)


def test_everything_is_lost_and_the_proxy_comes_back_too(product, lab, hosts, url, rows, stamp):
    remove_stacks(lab)
    docker(lab, "manager1", "stack", "rm", "proxystack")
    volume_is_removed(lab, "app1", "proxystack_data")
    ran = product.ok("recover", "--yes", hosts=hosts, timeout=600)
    assert "recovery complete (" in ran.out
    assert f"{PROXY}: created" in ran.out
    eventually(lambda: nocodb_shows(lab, rows, url), 60)
    assert "nothing to do" in product.ok("plan", hosts=hosts).out


def test_switched_off_it_leaves_nothing_behind(product, lab, hosts, rows):
    database = container_of(lab, "db1", DB)
    refused = product.fails(2, "proxy.remove", hosts=hosts)
    assert "so the proxy is wanted" in refused.err
    refused = product.fails(2, "proxy.remove")
    assert "stands behind proxystack" in refused.err
    product.ok("deploy-app")
    assert demo.records(lab) == rows
    ran = product.ok("proxy.remove")
    assert "removed stack proxystack" in ran.out
    assert container_of(lab, "db1", DB) == database
    for kind in ("config", "secret", "network", "service"):
        names = docker(lab, "manager1", kind, "ls", "--format", "{{.Name}}").split()
        assert not [name for name in names if name.startswith("proxystack")], kind
    labels = docker(lab, "manager1", "node", "inspect", "--format", "{{.Spec.Labels}}", "app1")
    assert "swarmkeep.proxy" not in labels
    assert "nothing to do" in product.ok("plan").out
    assert "nothing to remove" in product.ok("proxy.remove").out
