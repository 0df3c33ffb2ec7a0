"""What is refused before the proxy, or the app behind it, is deployed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.deploy import preflight
from tests.unit.clusters import cluster, service
from tests.unit.deploy.test_proxy_stack import with_proxy
from tests.unit.deploy.test_stacks import inventory


def publishing(port: int):
    app = service("appstack_nocodb")
    return replace(app, spec={**app.spec, "EndpointSpec": {"Ports": [{"PublishedPort": port}]}})


def test_a_port_that_the_app_still_publishes(tmp_path):
    hosts = with_proxy(tmp_path)
    preflight.check_ports(hosts, cluster((publishing(8080),)))
    with pytest.raises(ConfigError, match="appstack_nocodb: publishes port 443, which the proxy"):
        preflight.check_ports(hosts, cluster((publishing(443),)))
    # Its own are no obstacle.
    own = replace(publishing(443), stack="proxystack", name="proxystack_caddy")
    preflight.check_ports(hosts, cluster((own,)))


def test_the_app_needs_the_proxys_network(tmp_path):
    hosts = with_proxy(tmp_path)
    with pytest.raises(SwarmkeepError, match="proxystack: is not deployed") as caught:
        preflight.check_proxy_runs(hosts, cluster())
    assert "inv deploy-proxy" in caught.value.hint
    there = cluster(networks={"n1": "proxystack_frontend"})
    preflight.check_proxy_runs(hosts, there)
    # Without a proxy nobody asks.
    preflight.check_proxy_runs(inventory(tmp_path), cluster())
