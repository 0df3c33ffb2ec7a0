"""The main road: nothing there, then both stacks, then again with nothing to change."""

from __future__ import annotations

import json
import re
import urllib.request

from tests.e2e.live import APP, DB, cluster_state, container_of, docker


def test_status_before_anything_is_deployed(product):
    ran = product.inv("status")
    assert ran.code == 1
    assert "dbstack: not deployed" in ran.out
    assert "network backend: does not exist" in ran.out


def test_the_app_is_refused_while_its_database_is_not_there(product, lab):
    before = cluster_state(lab)
    ran = product.fails(1, "deploy-app")
    assert "dbstack_root_db: is not running" in ran.err
    assert "inv deploy-db" in ran.err
    assert cluster_state(lab) == before


def test_dry_run_shows_the_commands_and_changes_nothing(product, lab):
    before = cluster_state(lab)
    ran = product.ok("--dry", "deploy-db")
    assert re.search(r"docker node update --label-add role=db [a-z0-9]{25}\b", ran.out)
    assert "docker network create --driver overlay --attachable backend" in ran.out
    assert "docker stack deploy --compose-file -" in ran.out
    assert "nothing was changed" in ran.out
    assert cluster_state(lab) == before


def test_labels_and_network_by_themselves(product, lab):
    assert "node db1: role=db" in product.ok("swarm.label").out
    assert "nothing to change" in product.ok("swarm.label").out
    assert "network backend: created" in product.ok("swarm.network").out
    assert "nothing to change" in product.ok("swarm.network").out
    labels = json.loads(docker(lab, "manager1", "node", "inspect", "db1", "app1"))
    assert [n["Spec"]["Labels"] for n in labels] == [{"role": "db"}, {"role": "app"}]


def test_the_database_converges(product, lab):
    ran = product.ok("deploy-db")
    assert f"{DB}: created" in ran.out
    assert "dbstack: converged (" in ran.out
    assert container_of(lab, "db1", DB)


def test_the_app_converges_and_answers_from_its_database(product, lab):
    ran = product.ok("deploy-app")
    assert "NocoDB answers from its database" in ran.out
    url = f"{lab.nocodb_url}/api/v1/db/meta/nocodb/info"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200


def test_a_second_run_changes_nothing_and_says_so(deployed, lab):
    before = cluster_state(lab)
    containers = container_of(lab, "db1", DB), container_of(lab, "app1", APP)
    ran = deployed.ok("deploy")
    assert ran.out.count("converged, nothing to change") == 2
    assert cluster_state(lab) == before
    assert (container_of(lab, "db1", DB), container_of(lab, "app1", APP)) == containers


def test_redeploying_the_app_leaves_the_database_alone(deployed, lab, variant):
    database, app = container_of(lab, "db1", DB), container_of(lab, "app1", APP)
    changed = variant({"app": {"public_url": "http://noco.example.com"}})
    assert f"{APP}: updated" in deployed.ok("deploy-app", hosts=changed).out
    assert container_of(lab, "app1", APP) != app
    assert container_of(lab, "db1", DB) == database
    deployed.ok("deploy-app")
    assert container_of(lab, "db1", DB) == database


def test_status_tells_what_runs(deployed):
    ran = deployed.ok("status")
    assert "db (data)" in ran.out
    summary = json.loads(deployed.ok("status", "--json").out)
    assert summary["ok"]
    services = {s["name"]: s for s in summary["services"]}
    assert services[DB]["running"] == services[DB]["wanted"] == 1
    assert services[DB]["nodes"] == ["db1"]
    assert services[APP]["nodes"] == ["app1"]


def test_no_secret_is_visible_from_outside_the_containers(deployed, lab):
    password = lab.secrets["postgres_password"]
    services = docker(lab, "manager1", "service", "ls", "-q").split()
    secrets = docker(lab, "manager1", "secret", "ls", "-q").split()
    seen = docker(lab, "manager1", "service", "inspect", *services)
    seen += docker(lab, "manager1", "secret", "inspect", *secrets)
    for node, service in (("db1", DB), ("app1", APP)):
        container = container_of(lab, node, service)
        seen += docker(lab, node, "inspect", container)
        seen += docker(lab, node, "logs", container)
        seen += lab.exec(node, "ps", "axww", "-o", "args").stdout.decode()
    assert "POSTGRES_PASSWORD_FILE" in seen
    assert password not in seen


def test_old_secret_versions_go_and_the_used_ones_stay(deployed, lab):
    names = docker(lab, "manager1", "secret", "ls", "--format", "{{.Name}}").split()
    assert len(names) == 2
    assert {name.rpartition("_")[0] for name in names} == {
        "dbstack_postgres_password",
        "appstack_nocodb_database",
    }


def test_the_sudo_user_can_deploy_too(deployed, lab, variant):
    hosts = variant({"ssh": {"user": "deploy", "become": True}})
    ran = deployed.fails(3, "status", hosts=hosts)
    assert "sudo wants a password" in ran.err


def test_first_start_of_the_app_is_one_replica_more_only_afterwards(deployed, lab, variant):
    # A database of its own, empty: two first starts on it would race each other.
    image = docker(lab, "app1", "images", "-q", "swarmkeep-lab/nocodb").split()[0]
    assert image
    hosts = variant(
        {
            "hosts": {"manager1": {"role": "app"}},
            # A project of its own: an app stack of another name would leave this one's behind.
            "project": "two",
            "stacks": {"app": "twostack"},
            "pg_db": "second",
            "app": {"replicas": 2, "port": 8090},
        }
    )
    _copy_image(lab, "app1", "manager1")
    try:
        ran = deployed.ok("deploy-app", hosts=hosts)
        one = ran.out.index("twostack_nocodb: 0/1 running")
        two = ran.out.index("/2 running")
        assert one < two
        assert container_of(lab, "manager1", "twostack_nocodb")
        assert container_of(lab, "app1", "twostack_nocodb")
    finally:
        docker(lab, "manager1", "stack", "rm", "twostack")
        for node in ("manager1", "db1", "app1"):
            docker(lab, "manager1", "node", "update", "--label-rm", "role.two", node)


def _copy_image(lab, source: str, target: str) -> None:
    tag = "swarmkeep-lab/nocodb:0.301.3"
    saved = lab.exec(source, "docker", "save", tag)
    loaded = lab.exec(target, "docker", "load", input=saved.stdout)
    assert loaded.returncode == 0, loaded.stderr
