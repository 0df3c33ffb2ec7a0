"""Nodes that stand twice in the Swarm, and machines that are not who hosts.yaml says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabfile.base.errors import CONFIG, ConfigError
from fabfile.deploy import preflight, stacks
from fabfile.deploy.observation import Look, Survey
from fabfile.deploy.preflight import Allowed
from fabfile.doctor.swarm_checks import _former
from fabfile.ssh.fleet import Outcome
from fabfile.swarm import placement
from fabfile.swarm.state import _living
from tests.unit.clusters import cluster, node, service, task
from tests.unit.deploy.test_stacks import Vault, inventory

HOSTS = {
    "manager1": {"address": "192.0.2.1", "swarm": "manager"},
    "db1": {"address": "192.0.2.2", "role": "db"},
    "app1": {"address": "192.0.2.3", "role": "app"},
}
OLD = replace(node("app1", "app"), id="old", state="down", created="2025-01-01T00:00:00Z")
NEW = replace(node("app1"), id="new", created="2026-01-01T00:00:00Z")


@pytest.mark.parametrize("order", [(OLD, NEW), (NEW, OLD)])
def test_the_living_one_counts(order):
    assert _living(order) == ((NEW,), (OLD,))


def test_of_two_that_are_down_the_newer_counts():
    down = replace(NEW, state="down")
    assert _living((OLD, down)) == ((down,), (OLD,))


def test_two_living_ones_are_told_apart_by_what_the_machine_says():
    both = cluster(nodes=(replace(OLD, state="ready"), NEW))
    assert [len(alike) for alike in both.namesakes()] == [2]
    told = both.identified({"app1": "new"})
    assert told.nodes == (NEW,)
    assert [one.id for one in told.former] == ["old"]
    # A machine that says nothing of use decides nothing.
    assert both.identified({"app1": "elsewhere"}) == both


def seen_by(tmp_path, nodes, former=(), ids=None, folders=()):
    """A look at a deployed database; `ids`: what each host says which node it is."""
    hosts = inventory(tmp_path, hosts=HOSTS)
    db = service()
    there = cluster((db,), (task(db),), nodes=nodes, former=former)
    surveys = {
        role: tuple(
            Outcome(entry, Survey(True, True, folders, (ids or {}).get(entry.name, "")))
            for entry in hosts.with_role(role)
        )
        for role in ("db", "app")
    }
    return hosts, Look(None, there, surveys)


def deploy_app(hosts, look):
    wanted = stacks.application(hosts, Vault())
    return preflight.check(hosts, wanted, look, Allowed())


LIVING = (node("manager1"), node("db1", "db", "dbstack"), NEW)


def test_a_deploy_goes_on_and_gives_the_living_one_its_label(tmp_path):
    """Seen: refused, "app1 is down/active ... bring the node up", while app1 was ready."""
    hosts, look = seen_by(tmp_path, LIVING, (OLD,), {"app1": "new"})
    (change,) = deploy_app(hosts, look).before
    assert (change.node, change.address, change.add) == ("app1", "new", {"role": "app"})


def test_two_living_nodes_of_one_name_are_refused_with_both_ids(tmp_path):
    hosts, look = seen_by(tmp_path, (*LIVING, replace(OLD, state="ready")))
    with pytest.raises(ConfigError) as caught:
        deploy_app(hosts, look)
    assert caught.value.exit_code == CONFIG
    assert "new and old" in caught.value.message
    assert "hostnamectl" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "words"), [("id-db1", "node 'db1'"), ("x", "node x of another Swarm")]
)
def test_a_machine_that_is_another_node_is_refused(tmp_path, said, words):
    """Its address is another machine's now, or it was renamed."""
    hosts, look = seen_by(tmp_path, LIVING, (OLD,), {"app1": said})
    with pytest.raises(ConfigError) as caught:
        deploy_app(hosts, look)
    assert f"hosts.app1: the machine at 192.0.2.3 is {words}" in caught.value.message
    assert "hosts.app1.node" in caught.value.hint


def test_doctor_names_the_dead_entry_and_the_command():
    (check,) = _former(cluster(nodes=(NEW,), former=(OLD,)))
    assert not check.ok
    assert "app1 (old, down)" in check.detail
    assert check.hint == "on a manager: docker node rm --force old"
    assert _former(cluster()) == []


def test_the_data_node_is_the_one_with_the_volume_and_what_its_former_self_recorded_counts(
    tmp_path,
):
    from fabfile.swarm.data_volume import DataFolder

    label = {"swarmkeep.cluster.dbstack": "7"}
    old = replace(node("db1", "db", "dbstack"), id="old", state="down")
    old = replace(old, labels={**old.labels, **label})
    new = replace(node("db1"), id="new")
    nodes = (node("manager1"), new, node("app1", "app"))
    folder = DataFolder("pgdata", 17, "7")
    hosts, look = seen_by(tmp_path, nodes, (old,), {"db1": "new"}, (folder,))
    wanted = stacks.database(hosts, Vault())
    changes = preflight.check(
        hosts, wanted, replace(look, cluster=replace(look.cluster, services=())), Allowed()
    ).before
    labels = {key: value for change in changes for key, value in change.add.items()}
    assert labels["swarmkeep.pgdata.dbstack"] == "true"
    assert labels["swarmkeep.cluster.dbstack"] == "7"
    assert {change.address for change in changes} == {"new"}
    # Reinstalled, with an empty disk: the data is not where it was.
    hosts, look = seen_by(tmp_path, nodes, (old,), {"db1": "new"}, ())
    look = replace(look, cluster=replace(look.cluster, services=()))
    with pytest.raises(ConfigError, match="is no longer in"):
        preflight.check(hosts, wanted, look, Allowed())


def test_labels_are_set_by_id(tmp_path):
    hosts = inventory(tmp_path, hosts=HOSTS)
    seen = cluster(nodes=(node("manager1"), node("db1", "db"), NEW), former=(OLD,))
    assert [c.address for c in placement.role_changes(hosts, seen)] == ["new"]
