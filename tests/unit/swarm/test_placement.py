"""Where the database may run: never where it would come up empty beside its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import SwarmkeepError
from fabfile.config import hosts_file
from fabfile.config.project import Project
from fabfile.swarm import placement
from fabfile.swarm.placement import LabelChange
from tests.unit.clusters import cluster, node

OURS = Project("", "3f2a")
ALL = {
    "swarmkeep.pgdata.dbstack": "true",
    "swarmkeep.project.dbstack": "3f2a",
    "swarmkeep.cluster.dbstack": "7",
}
HOSTS = {
    "manager1": {"address": "192.0.2.1", "swarm": "manager"},
    "db1": {"address": "192.0.2.2", "role": "db"},
    "db2": {"address": "192.0.2.3", "role": "db"},
    "app1": {"address": "192.0.2.4", "role": "app"},
}


def inventory(tmp_path: Path, only: tuple[str, ...] = tuple(HOSTS), data_host: str = ""):
    data = {"hosts": {name: HOSTS[name] for name in only}, "s3_bucket_name": "test-bucket"}
    if data_host:
        data["db"] = {"data_host": data_host}
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump(data))
    return hosts_file.load(path)


def nodes(labelled: str = ""):
    return tuple(
        node(name, HOSTS[name].get("role", ""), "dbstack" if name == labelled else "")
        for name in HOSTS
    )


def choose(tmp_path, *, only=tuple(HOSTS), named="", labelled="", volume=(), move=False) -> str:
    inv = inventory(tmp_path, only, named)
    with_volume = [h for h in inv.hosts if h.name in volume]
    seen = cluster(nodes=nodes(labelled))
    return placement.data_host(inv, seen, with_volume, move=move).name


def test_the_only_db_host_is_chosen(tmp_path):
    assert choose(tmp_path, only=("manager1", "db1")) == "db1"


def test_two_db_hosts_and_nothing_known_must_be_decided_by_the_user(tmp_path):
    with pytest.raises(SwarmkeepError) as caught:
        choose(tmp_path)
    assert "2 db hosts could hold its data: db1, db2" in caught.value.message
    assert "data_host" in caught.value.hint


def test_the_label_decides(tmp_path):
    assert choose(tmp_path, labelled="db2") == "db2"


def test_the_volume_decides_where_there_is_no_label(tmp_path):
    assert choose(tmp_path, volume=("db2",)) == "db2"


def test_two_volumes_must_be_decided_by_the_user(tmp_path):
    with pytest.raises(SwarmkeepError, match="hold its volume"):
        choose(tmp_path, volume=("db1", "db2"))
    assert choose(tmp_path, volume=("db1", "db2"), named="db2") == "db2"


def test_named_host_against_the_label_is_refused_unless_told(tmp_path):
    with pytest.raises(SwarmkeepError) as caught:
        choose(tmp_path, named="db1", labelled="db2")
    assert "its data is on node 'db2'" in caught.value.message
    assert "--move-data-host" in caught.value.hint
    assert choose(tmp_path, named="db1", labelled="db2", move=True) == "db1"


def test_named_host_without_the_volume_is_refused_unless_told(tmp_path):
    with pytest.raises(SwarmkeepError, match="come up empty"):
        choose(tmp_path, named="db1", volume=("db2",))
    assert choose(tmp_path, named="db1", volume=("db2",), move=True) == "db1"


def test_label_on_a_node_that_is_no_db_host(tmp_path):
    with pytest.raises(SwarmkeepError, match="no host with 'role: db'"):
        choose(tmp_path, only=("manager1", "db2"), labelled="db1")


def test_role_changes_set_and_remove(tmp_path):
    inv = inventory(tmp_path, ("manager1", "db1", "app1"))
    seen = cluster(nodes=(node("manager1", "db"), node("db1"), node("app1", "app")))
    changes = sorted(placement.role_changes(inv, seen), key=lambda change: change.node)
    assert changes == [
        LabelChange("db1", {"role": "db"}),
        LabelChange("manager1", {}, ("role",), loses="db"),
    ]


def test_nothing_to_change(tmp_path):
    inv = inventory(tmp_path, ("manager1", "db1", "app1"))
    assert placement.role_changes(inv, cluster()) == []
    db1 = inv.with_role("db")[0]
    first = placement.data_changes("dbstack", db1, cluster(), OURS, "7")
    seen = cluster(nodes=(replace(node("db1", "db"), labels={"role": "db", **ALL}),))
    assert first == [LabelChange("db1", {k: v for k, v in ALL.items() if "pgdata" not in k})]
    assert placement.data_changes("dbstack", db1, seen, OURS, "7") == []


def test_the_data_labels_are_on_one_node_only(tmp_path):
    db2 = inventory(tmp_path).hosts[2]
    old = replace(node("db1", "db"), labels={"role": "db", **ALL})
    seen = cluster(nodes=(old, node("db2", "db")))
    assert placement.data_changes("dbstack", db2, seen, OURS, "") == [
        LabelChange("db1", {}, tuple(ALL), loses="db"),
        LabelChange(
            "db2", {"swarmkeep.pgdata.dbstack": "true", "swarmkeep.project.dbstack": "3f2a"}
        ),
    ]


def test_each_stack_has_labels_of_its_own(tmp_path):
    """Seen: a second stack on a node took the label from the first, whose tasks Swarm ended."""
    db1 = inventory(tmp_path).hosts[1]
    there = {"role": "db", "swarmkeep.pgdata": "other", "swarmkeep.pgdata.third": "true"}
    seen = cluster(nodes=(replace(node("db1"), labels=there),))
    (change,) = placement.data_changes("dbstack", db1, seen, OURS, "7")
    assert change == LabelChange("db1", ALL)
    assert placement.outdated_labels("dbstack", db1, seen) == []


def test_the_label_of_earlier_versions_stays_until_the_stack_is_pinned_by_todays(tmp_path):
    db1 = inventory(tmp_path).hosts[1]
    there = {"role": "db", "swarmkeep.pgdata": "dbstack"}
    seen = cluster(nodes=(replace(node("db1"), labels=there),))
    assert placement.data_host(inventory(tmp_path), seen, [], move=False) == db1
    assert placement.data_changes("dbstack", db1, seen, OURS, "7") == [LabelChange("db1", ALL)]
    assert placement.outdated_labels("dbstack", db1, seen) == [
        LabelChange("db1", {}, ("swarmkeep.pgdata",))
    ]


def test_a_project_has_a_role_label_of_its_own(tmp_path):
    inv = replace(inventory(tmp_path, ("manager1", "db1", "app1")), project="staging")
    changes = placement.role_changes(inv, cluster())
    assert sorted(map(str, changes)) == ["role.staging=app", "role.staging=db"]


def test_unknown_node_is_named_with_what_is_there(tmp_path):
    inv = inventory(tmp_path)
    with pytest.raises(SwarmkeepError) as caught:
        placement.check_nodes(inv, cluster())
    assert caught.value.message == "hosts.db2: the Swarm has no node 'db2'"
    assert "app1, db1, manager1" in caught.value.hint


def test_strangers_are_found(tmp_path):
    inv = inventory(tmp_path, ("manager1", "db1"))
    assert placement.strangers(inv, cluster()) == ["app1"]


def test_labels_are_undone_as_far_as_they_were_changed(tmp_path):
    before = cluster(nodes=(node("db1", "db", "dbstack"), node("app1", "app")))
    changes = [
        placement.LabelChange("app1", {"role": "db", "swarmkeep.pgdata.dbstack": "true"}),
        placement.LabelChange("db1", {}, ("swarmkeep.pgdata.dbstack",)),
        placement.LabelChange("gone", {"role": "db"}),
    ]
    assert placement.undo(changes, before, before) == []
    now = cluster(nodes=(node("db1", "db", "dbstack"), node("app1", "db", "dbstack")))
    assert [str(change) for change in placement.undo(changes, before, now)] == [
        "role=app -swarmkeep.pgdata.dbstack"
    ]
