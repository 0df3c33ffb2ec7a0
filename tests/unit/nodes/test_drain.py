"""Draining: which node is meant, when the database would be left without one, who is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.config import hosts_file
from fabfile.nodes import drain
from tests.unit.clusters import cluster, node

HOSTS = {
    "manager1": {"address": "10.0.0.1", "swarm": "manager"},
    "database": {"address": "10.0.0.2", "role": "db", "node": "db1"},
    "db2": {"address": "10.0.0.3", "role": "db"},
}


@pytest.fixture
def inv(tmp_path: Path):
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump({"hosts": HOSTS, "s3_bucket_name": "test-bucket"}))
    return hosts_file.load(path)


def nodes(**changes):
    fields = {"manager1": ("",), "db1": ("db",), "db2": ("db",)}
    return tuple(node(n, *labels, **changes.get(n, {})) for n, labels in fields.items())


def refused(inv, seen, name: str) -> str:
    with pytest.raises(SwarmkeepError) as caught:
        drain.refuse_without_database(inv, seen, drain.find_node(inv, seen, name))
    assert "--force" in caught.value.hint
    return caught.value.message


def test_a_host_is_found_by_its_own_and_by_its_nodes_name(inv):
    seen = cluster(nodes=nodes())
    assert drain.find_node(inv, seen, "database").name == "db1"
    assert drain.find_node(inv, seen, "db1").name == "db1"


def test_an_unknown_name_is_a_usage_error_that_lists_the_nodes(inv):
    with pytest.raises(ConfigError) as caught:
        drain.find_node(inv, cluster(nodes=nodes()), "nobody")
    assert "db1, db2, manager1" in caught.value.hint


def test_one_of_two_db_nodes_may_go_while_no_data_is_bound_to_it(inv):
    seen = cluster(nodes=nodes())
    drain.refuse_without_database(inv, seen, drain.find_node(inv, seen, "db1"))


def test_the_node_with_the_data_may_not_go(inv):
    seen = cluster(nodes=(node("manager1"), node("db1", "db", "dbstack"), node("db2", "db")))
    assert "db1: holds the data" in refused(inv, seen, "database")
    drain.refuse_without_database(inv, seen, drain.find_node(inv, seen, "db2"))


@pytest.mark.parametrize("other", [{"availability": "drain"}, {"state": "down"}])
def test_the_last_working_db_node_may_not_go(inv, other):
    seen = cluster(nodes=nodes(db2=other))
    assert "db1: is the only one with role db" in refused(inv, seen, "db1")


def test_a_node_without_role_may_always_go(inv):
    seen = cluster(nodes=(node("manager1"), node("db1", "db", "dbstack")))
    drain.refuse_without_database(inv, seen, drain.find_node(inv, seen, "manager1"))


def test_draining_what_is_drained_already_is_no_loss(inv):
    seen = cluster(nodes=(node("db1", "db", "dbstack", availability="drain"),))
    drain.refuse_without_database(inv, seen, drain.find_node(inv, seen, "db1"))


def test_only_working_tasks_are_left():
    text = (
        "Running 3 minutes ago web.1\nShutdown 2 seconds ago old.1\nPreparing 1 second ago b.2\n"
        "Failed 1 second ago x.1\nComplete 1 hour ago job.1\nOrphaned 1 day ago y.1\n"
    )
    assert drain.tasks_left(text) == ["b.2", "web.1"]
    assert drain.tasks_left("") == []
