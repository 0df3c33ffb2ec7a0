"""The database's node is lost to the manager, or another: the last of what plays on the lab.

Docker's own network takes minutes to get over such things: until then a name may be unknown on
a node, and NocoDB, which needs its database's, does not start.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import docker as lab_docker
from lab import images
from tests.e2e.live import DB, cluster_state, container_of, docker, eventually

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def at_rest(deployed) -> None:
    """Whatever the tests before have left."""
    deployed.ok("deploy", "--yes")


def comes_to_rest(product) -> None:
    """All is as hosts.yaml says, at the latest when the network is over it."""
    eventually(lambda: product.inv("deploy").code == 0, 420)
    assert product.ok("plan").out.endswith("plan: nothing to do\n")


@pytest.fixture
def cut_off(deployed, lab) -> Iterator[None]:
    """The db node and the manager cannot see each other; both still answer over SSH."""
    manager = lab.addresses["manager1"]
    rules = [("INPUT", "-s", manager), ("OUTPUT", "-d", manager)]
    for rule in rules:
        assert lab.exec("db1", "iptables", "-I", *rule, "-j", "DROP").returncode == 0
    try:
        eventually(lambda: state(lab) == "down", 90)
        yield
    finally:
        for rule in rules:
            lab.exec("db1", "iptables", "-D", *rule, "-j", "DROP")
        eventually(lambda: state(lab) == "ready", 90)


def state(lab) -> str:
    form = "{{.Status.State}}"
    return docker(lab, "manager1", "node", "inspect", "--format", form, "db1")


def test_db_node_that_is_cut_off(product, lab, cut_off, variant):
    before = {k: v for k, v in cluster_state(lab).items() if k != "tasks"}
    assert "down" in product.inv("status").text
    changed = variant({"pg_db": "other"})
    ran = product.fails(1, "deploy-db", "--yes", hosts=changed)
    assert "dbstack: no node can run it: db1 is down/active" in ran.err
    assert "bring the node up; inv doctor says what it lacks" in ran.err
    product.fails(1, "deploy-db", "--yes")
    assert "db1" in product.fails(1, "doctor").text
    assert {k: v for k, v in cluster_state(lab).items() if k != "tasks"} == before
    # Its data and its backup are there all the while.
    assert docker(lab, "db1", "volume", "ls", "-q") == "dbstack_pgdata"


def test_after_that_all_is_as_it_was(product, lab):
    eventually(lambda: container_of(lab, "db1", DB) != "", 120)
    comes_to_rest(product)


@pytest.fixture
def image_on_the_manager(lab) -> Iterator[None]:
    """PostgreSQL's image is on the manager, too; what it left there is removed."""
    tag = images.POSTGRES.tag
    node = lab.container("manager1")
    lab_docker.pipe(("save", tag), ("exec", "--interactive", node, "docker", "load"))
    yield
    gone = "docker rm -f $(docker ps -aq --filter volume=dbstack_pgdata); "
    lab.exec("manager1", "sh", "-c", f"{gone}docker volume rm -f dbstack_pgdata")
    docker(lab, "manager1", "image", "rm", "--force", tag)


def test_a_move_of_the_database_that_fails_is_taken_back(
    product, lab, variant, image_on_the_manager
):
    before = {k: v for k, v in cluster_state(lab).items() if k != "tasks"}
    hosts = variant(
        {
            "hosts": {"manager1": {"role": "db"}},
            "db": {"data_host": "manager1"},
            "deploy": {"timeout": "1s"},
        }
    )
    ran = product.fails(1, "deploy-db", "--yes", "--move-data-host", hosts=hosts)
    assert "not converged after 1 s" in ran.err
    assert "node db1: swarmkeep.pgdata.dbstack=true" in ran.out
    assert ", as it was" in ran.out
    assert {k: v for k, v in cluster_state(lab).items() if k != "tasks"} == before
    assert container_of(lab, "db1", DB) != ""
    comes_to_rest(product)


def test_a_node_that_left_and_joined_again(product, lab):
    """Seen: refused, "app1 is down/active ... bring the node up", while app1 was ready."""
    token = docker(lab, "manager1", "swarm", "join-token", "-q", "worker")
    docker(lab, "app1", "swarm", "leave")
    docker(lab, "app1", "swarm", "join", "--token", token, f"{lab.addresses['manager1']}:2377")
    own = docker(lab, "app1", "info", "--format", "{{.Swarm.NodeID}}")
    try:
        # Both entries may be Ready for some seconds: which is which says the machine itself.
        assert "role=app" in product.inv("plan", "--stack", "app").out
        eventually(lambda: len(rows_of(lab, "app1")) == 2, 30)
        comes_to_rest(product)
        former = next(node_id for node_id in rows_of(lab, "app1") if node_id != own)
        eventually(lambda: rows_of(lab, "app1")[former] == "Down", 60)
        ran = product.fails(1, "doctor")
        assert f"docker node rm --force {former}" in ran.text
    finally:
        for node_id in rows_of(lab, "app1"):
            if node_id != own:
                docker(lab, "manager1", "node", "rm", "--force", node_id)
    assert "docker node rm" not in product.inv("doctor").text


def rows_of(lab, name: str) -> dict[str, str]:
    """Id and status of every entry of a node."""
    form = "{{.ID}} {{.Hostname}} {{.Status}}"
    listed = docker(lab, "manager1", "node", "ls", "--format", form)
    rows = [line.split() for line in listed.splitlines()]
    return {row[0]: row[2] for row in rows if row[1] == name}
