"""Which nodes the proxy runs on: those of hosts.yaml, and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from fabfile.config import hosts_file
from fabfile.swarm import placement
from fabfile.swarm.placement import LabelChange
from tests.unit.clusters import cluster, node

KEY = "swarmkeep.proxy.proxystack"


def inventory(*hosts: str):
    data = {
        "hosts": {
            "manager1": {"address": "192.0.2.1", "swarm": "manager"},
            "db1": {"address": "192.0.2.2", "role": "db"},
            "app1": {"address": "192.0.2.3", "role": "app"},
        },
        "s3_bucket_name": "test-bucket",
    }
    if hosts:
        data |= {"proxy": {"hosts": list(hosts)}, "app": {"domain": "noco.test"}}
    return hosts_file.parse(yaml.safe_dump(data), Path("hosts.yaml"))


def nodes(*labelled: str):
    found = (node("manager1"), node("db1", "db"), node("app1", "app"))
    return tuple(
        replace(one, labels={**one.labels, KEY: "true"}) if one.name in labelled else one
        for one in found
    )


def test_labels_come_and_go_with_hosts_yaml():
    seen = cluster(nodes=nodes("manager1"))
    assert placement.proxy_changes(inventory("app1"), seen) == [
        LabelChange("manager1", {}, (KEY,), loses="proxy"),
        LabelChange("app1", {KEY: "true"}),
    ]
    assert placement.proxy_changes(inventory("manager1"), seen) == []


def test_without_a_proxy_no_node_keeps_the_label():
    found = placement.proxy_changes(inventory(), cluster(nodes=nodes("app1")))
    assert found == [LabelChange("app1", {}, (KEY,), loses="proxy")]
