"""The section `proxy` of hosts.yaml and the app's domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.config import hosts_file
from fabfile.config.hosts_file_proxy_keys import DIRECTORY, STAGING
from fabfile.config.inventory import Inventory


def read(proxy: dict[str, Any] | None, **app: Any) -> Inventory:
    data: dict[str, Any] = {
        "hosts": {
            "m": {"address": "192.0.2.1", "swarm": "manager"},
            "d": {"address": "192.0.2.2", "role": "db"},
            "a": {"address": "192.0.2.3", "role": "app"},
        },
        "s3_bucket_name": "test-bucket",
        "app": app,
    }
    if proxy is not None:
        data["proxy"] = proxy
    return hosts_file.parse(yaml.safe_dump(data), Path("/x/hosts.yaml"))


def refused(proxy: dict[str, Any] | None, **app: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(proxy, **app)
    return "\n".join(caught.value.details)


def test_without_the_section_there_is_none() -> None:
    found = read(None)
    assert found.proxy.hosts == ()
    assert found.with_role("proxy") == ()
    assert found.running_stacks == ("dbstack", "appstack")
    assert found.app.public_url == ""


def test_the_least_that_is_needed() -> None:
    found = read({}, domain="noco.example.com")
    assert [host.name for host in found.with_role("proxy")] == ["a"]
    assert found.proxy.certificates == "acme"
    assert found.proxy.acme_directory == DIRECTORY
    assert (found.proxy.wait, found.proxy.drain) == (30, 10)
    assert found.proxy.network == "proxystack_frontend"
    assert found.app.public_url == "https://noco.example.com"
    assert found.running_stacks == ("dbstack", "appstack", "proxystack")


def test_every_key_is_read() -> None:
    found = read(
        {
            "hosts": ["m", "a"], "certificates": "internal", "email": "ops@example.com",
            "acme_root": "ca.pem", "http_port": 8000, "https_port": 8443, "wait": "1m",
            "drain": "5s",
        },
        domain="noco.example.com",
    ).proxy  # fmt: skip
    assert found.hosts == ("m", "a")
    assert found.acme_root == Path("/x/ca.pem")
    assert (found.http_port, found.https_port, found.wait, found.drain) == (8000, 8443, 60, 5)


@pytest.mark.parametrize(
    ("proxy", "public"),
    [
        ({"certificates": "none"}, "http://noco.test"),
        ({"certificates": "none", "http_port": 8000}, "http://noco.test:8000"),
        ({"certificates": "internal", "https_port": 8443}, "https://noco.test:8443"),
    ],
)
def test_the_public_address_follows_from_the_domain(proxy: dict[str, Any], public: str) -> None:
    assert read(proxy, domain="noco.test").app.public_url == public


def test_behind_a_load_balancer_the_public_address_may_be_another() -> None:
    found = read({"certificates": "none"}, domain="10.1.2.3", public_url="https://noco.test")
    assert found.app.public_url == "https://noco.test"
    assert found.app.domain == "10.1.2.3"


def test_one_host_as_a_text_where_no_host_has_an_app() -> None:
    data = {
        "hosts": {
            "m": {"address": "192.0.2.1", "swarm": "manager"},
            "d": {"address": "192.0.2.2", "role": "db"},
        },
        "s3_bucket_name": "test-bucket",
        "app": {"domain": "noco.test"},
        "proxy": {"hosts": "m"},
    }
    found = hosts_file.parse(yaml.safe_dump(data), Path("/x/hosts.yaml"))
    assert found.proxy.hosts == ("m",)


def test_staging_is_lets_encrypts() -> None:
    assert read({"staging": True}, domain="noco.test").proxy.acme_directory == STAGING


@pytest.mark.parametrize(
    ("proxy", "app", "said"),
    [
        (None, {"domain": "noco.test"}, "app.domain: needs the section 'proxy'"),
        ({}, {}, "app.domain: is missing"),
        ({}, {"domain": "Noco test"}, "app.domain: 'Noco test' is not valid"),
        ({}, {"domain": "a.b", "public_url": "https://x"}, "app.public_url: follows from"),
        ({"hosts": ["x"]}, {"domain": "a.b"}, "proxy.hosts: 'x' is not a host"),
        ({"hosts": ["m", "a"]}, {"domain": "a.b"}, "proxy.hosts: with 'certificates: acme'"),
        ({"hosts": "m", "drain": "50s"}, {"domain": "a.b"}, "proxy.drain: '50s' is out of range"),
        ({"hosts": "x"}, {"domain": "a.b"}, "proxy.hosts: 'x' is not a host"),
        ({}, {"domain": "10.1.2.3"}, "app.domain: is an IP address"),
        ({"trusted_proxies": ["x"]}, {"domain": "a.b"}, "proxy.trusted_proxies[0]: 'x' is not"),
        ({"http_port": 443}, {"domain": "a.b"}, "proxy.https_port: 443 is also http_port"),
        ({"certificates": "none", "wait": "0s"}, {"domain": "a.b"}, "proxy.wait: '0s'"),
        ({"staging": True, "acme_directory": "https://x/dir"}, {"domain": "a.b"}, "proxy.staging"),
    ],
)
def test_what_is_refused(proxy: dict[str, Any] | None, app: dict[str, Any], said: str) -> None:
    assert said in refused(proxy, **app)
