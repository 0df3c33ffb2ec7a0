"""What is refused before the proxy, or the app behind it, is deployed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.deploy import preflight
from tests.unit.clusters import cluster, node, service, task
from tests.unit.deploy.test_proxy_stack import with_proxy
from tests.unit.deploy.test_stacks import inventory


def publishing(port: int, mode: str = "ingress"):
    app = service("appstack_nocodb")
    ports = [{"PublishedPort": port, "PublishMode": mode}]
    return replace(app, spec={**app.spec, "EndpointSpec": {"Ports": ports}})


def test_a_port_that_the_app_still_publishes(tmp_path):
    hosts = with_proxy(tmp_path)
    preflight.check_ports(hosts, cluster((publishing(8080),)))
    with pytest.raises(ConfigError, match="appstack_nocodb: publishes port 443, which the proxy"):
        preflight.check_ports(hosts, cluster((publishing(443),)))
    # Without certificates nobody needs that one: the load balancer in front may have it.
    preflight.check_ports(with_proxy(tmp_path, certificates="none"), cluster((publishing(443),)))
    # Its own are no obstacle.
    own = replace(publishing(443), stack="proxystack", name="proxystack_caddy")
    preflight.check_ports(hosts, cluster((own,)))


@pytest.mark.parametrize("there", [True, False])
def test_a_port_of_a_node_is_in_the_way_on_that_node_only(tmp_path, there):
    hosts = with_proxy(tmp_path)
    app = publishing(80, "host")
    nodes = (node("m"), node("d", "db"), node("a", "app"))
    seen = cluster((app,), (task(app, node_id="id-a" if there else "id-d"),), nodes=nodes)
    if not there:
        preflight.check_ports(hosts, seen)
        return
    with pytest.raises(ConfigError, match="publishes port 80") as caught:
        preflight.check_ports(hosts, seen)
    assert "take 'proxy' and app.domain out of hosts.yaml for now" in caught.value.hint


def test_the_app_needs_a_proxy_that_runs(tmp_path):
    hosts = with_proxy(tmp_path)
    proxy = service("proxystack_caddy", None)
    networks = {"n1": "proxystack_frontend"}
    for seen in (
        cluster(),
        # What a failed first deploy leaves.
        cluster(networks=networks),
        cluster((proxy,), (task(proxy, "failed"),), networks=networks),
    ):
        with pytest.raises(SwarmkeepError, match="proxystack: does not run") as caught:
            preflight.check_proxy_runs(hosts, seen, "appstack")
        assert "inv deploy-proxy" in caught.value.hint
    preflight.check_proxy_runs(
        hosts, cluster((proxy,), (task(proxy),), networks=networks), "appstack"
    )
    # Without a proxy nobody asks.
    preflight.check_proxy_runs(inventory(tmp_path), cluster(), "appstack")
