"""The proxy's stack, Caddy's configuration, the app behind it, and a certificate from the vault."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.commands.rollback import _check_way_in
from fabfile.deploy import behind_proxy, proxy_certificate, proxy_check, proxy_stack, stacks
from fabfile.deploy.service_spec import specification
from tests.unit.certificate_files import self_signed
from tests.unit.deploy.test_stacks import Vault, inventory

DOMAIN = "noco.example.com"
HOSTS = {
    "m": {"address": "192.0.2.1", "swarm": "manager"},
    "d": {"address": "192.0.2.2", "role": "db"},
    "a": {"address": "192.0.2.3", "role": "app"},
}


def with_proxy(tmp_path: Path, **proxy: Any):
    return inventory(tmp_path, hosts=HOSTS, app={"domain": DOMAIN}, proxy=proxy)


class WithCertificate(Vault):
    """A vault with the proxy's certificate in it."""

    file = Path("vault.yml")

    def __init__(self, certificate: str, key: str) -> None:
        super().__init__()
        self._entries = {
            name: base64.b64encode(text.encode()).decode()
            for name, text in (("vault_proxy_certificate", certificate), ("vault_proxy_key", key))
        }

    def require(self, name: str) -> Secret:
        return Secret(self._entries[name]) if name in self._entries else super().require(name)


def test_the_proxy_can_do_little(tmp_path):
    wanted = proxy_stack.proxy(with_proxy(tmp_path), Vault())
    [service] = wanted.compose["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["cap_add"] == ["NET_BIND_SERVICE"]
    assert {mount.get("source") for mount in service["volumes"]} == {"data", None}
    # Not the network that PostgreSQL is on.
    assert service["networks"] == ["frontend"]
    assert wanted.compose["networks"]["frontend"]["name"] == "proxystack_frontend"
    assert service["deploy"]["placement"]["constraints"] == [
        "node.labels.swarmkeep.proxy.proxystack == true"
    ]
    assert [port["published"] for port in service["ports"]] == [80, 443]
    assert all(port["mode"] == "host" for port in service["ports"])
    # All of it can be compared with what runs.
    assert specification(wanted.compose, "caddy", "proxystack")[1] == ()


def test_only_what_is_wanted_is_declared(tmp_path):
    wanted = proxy_stack.proxy(with_proxy(tmp_path), Vault())
    assert list(wanted.compose["configs"]) == ["caddyfile"]
    assert wanted.compose["secrets"] == {}
    [caddyfile] = wanted.secrets
    assert caddyfile.version.kind == "config"
    assert f"https://{DOMAIN}" in caddyfile.content.decode()
    plain = proxy_stack.proxy(with_proxy(tmp_path, certificates="none"), Vault())
    [service] = plain.compose["services"].values()
    assert [port["published"] for port in service["ports"]] == [80]
    assert f"http://{DOMAIN} {{" in plain.secrets[0].content.decode()


def test_a_private_acme_server(tmp_path):
    authority, _ = self_signed("ca.example.com")
    (tmp_path / "ca.pem").write_text(authority)
    hosts = with_proxy(tmp_path, acme_directory="https://ca.example.com/dir", acme_root="ca.pem")
    wanted = proxy_stack.proxy(hosts, Vault())
    text = proxy_stack.caddyfile(hosts)
    assert "dir https://ca.example.com/dir" in text
    assert "trusted_roots /etc/caddy/acme-root.pem" in text
    assert authority.encode() in [one.content for one in wanted.secrets]
    (tmp_path / "ca.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"proxy.acme_root: .* is no PEM"):
        proxy_stack.proxy(hosts, Vault())
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(ConfigError, match=r"proxy.acme_root: .*No such file"):
        proxy_stack.proxy(hosts, Vault())


def test_a_certificate_from_the_vault_is_a_secret(tmp_path):
    hosts = with_proxy(tmp_path, certificates="vault")
    certificate, key = self_signed(DOMAIN)
    wanted = proxy_stack.proxy(hosts, WithCertificate(certificate, key))
    assert set(wanted.compose["secrets"]) == {"certificate", "certificate_key"}
    assert {one.version.kind for one in wanted.secrets} == {"config", "secret"}
    # The key is never shown; the certificate is nobody's secret.
    assert wanted.redact(f"{key} and {DOMAIN}") == f"[redacted] and {DOMAIN}"
    names = str(wanted.compose)
    assert key not in names
    # What is checked before a change is what will be there.
    assert b"certificate-key.pem" in proxy_check._archive(wanted)


@pytest.mark.parametrize(
    ("names", "days", "domain", "said"),
    [
        (("other.example.com",), 30, DOMAIN, "is for other.example.com, not for"),
        ((DOMAIN,), -0.5, DOMAIN, "has expired on"),
        ((DOMAIN,), 30, "x.y", "not for x.y"),
        (("*.example.com",), 30, "a.b.example.com", "not for a.b.example.com"),
    ],
)
def test_a_certificate_that_does_not_fit(names, days, domain, said):
    certificate, key = self_signed(*names, days=days)
    with pytest.raises(ConfigError) as caught:
        proxy_certificate.check(certificate, key, domain, "vault.yml")
    assert said in caught.value.message
    assert "inv secrets.set vault_proxy_certificate" in caught.value.hint


def test_an_entry_that_is_no_base64():
    with pytest.raises(ConfigError, match="vault_proxy_key is no PEM file in base64"):
        proxy_certificate.decoded("-----BEGIN PRIVATE KEY-----", "vault_proxy_key", "vault.yml")


def test_a_wildcard_fits_one_level_down():
    certificate, key = self_signed("*.example.com")
    proxy_certificate.check(certificate, key, DOMAIN, "vault.yml")


def test_a_key_that_is_another_or_none():
    certificate, key = self_signed(DOMAIN)
    _, another = self_signed(DOMAIN)
    for chain, private, said in (
        (certificate, another, "is not the key of"),
        (certificate, "nonsense", "is no key in PEM"),
        ("nonsense", key, "is no certificate in PEM"),
    ):
        with pytest.raises(ConfigError, match=said):
            proxy_certificate.check(chain, private, DOMAIN, "vault.yml")


def test_a_certificate_of_the_future():
    certificate, key = self_signed(DOMAIN, age=-2)
    with pytest.raises(ConfigError, match="is not valid before"):
        proxy_certificate.check(certificate, key, DOMAIN, "vault.yml")


def test_another_port_than_443_is_in_the_redirect(tmp_path):
    text = proxy_stack.caddyfile(with_proxy(tmp_path, https_port=8443))
    assert "auto_https disable_redirects" in text
    assert f"redir https://{DOMAIN}:8443{{uri}} permanent" in text
    assert "redir" not in proxy_stack.caddyfile(with_proxy(tmp_path)).replace("redirects", "")


def test_who_may_say_who_the_client_is(tmp_path):
    hosts = with_proxy(tmp_path, trusted_proxies=["10.0.0.0/8", "fd00::/8"])
    assert "trusted_proxies 10.0.0.0/8 fd00::/8" in proxy_stack.caddyfile(hosts)


def test_a_release_of_the_app_is_behind_the_proxy_or_not(tmp_path):
    hosts = with_proxy(tmp_path)
    assert behind_proxy.is_behind(stacks.application(hosts, Vault()).compose, hosts.proxy)
    plain = stacks.application(inventory(tmp_path, hosts=HOSTS), Vault())
    assert not behind_proxy.is_behind(plain.compose, hosts.proxy)
    with pytest.raises(ConfigError, match="in release 3 it published a port of its own"):
        _check_way_in(hosts, 3, plain, behind=True)
    with pytest.raises(ConfigError, match="in release 3 it stood behind the proxy"):
        _check_way_in(hosts, 3, stacks.application(hosts, Vault()), behind=False)
    _check_way_in(hosts, 3, stacks.application(hosts, Vault()), behind=True)


def test_without_the_section_there_is_nothing_to_deploy(tmp_path):
    with pytest.raises(ConfigError, match="has no section 'proxy'"):
        proxy_stack.proxy(inventory(tmp_path), Vault())


def test_a_template_that_is_broken(tmp_path):
    folder = tmp_path / "compose"
    shutil.copytree(stacks.COMPOSE_FOLDER, folder)
    (folder / "Caddyfile.j2").write_text("{{ nobody }}")
    with pytest.raises(ConfigError, match=r"Caddyfile.j2: is no usable template: 'nobody' is und"):
        proxy_stack.caddyfile(with_proxy(tmp_path), folder)


def test_the_app_behind_it(tmp_path):
    hosts = with_proxy(tmp_path, drain="7s")
    wanted = stacks.application(hosts, Vault())
    service = wanted.compose["services"]["nocodb"]
    assert "ports" not in service
    assert service["networks"] == ["backend", "frontend"]
    assert wanted.compose["networks"]["frontend"] == {
        "external": True,
        "name": "proxystack_frontend",
    }
    assert service["deploy"]["endpoint_mode"] == "dnsrr"
    for key in ("update_config", "rollback_config"):
        assert service["deploy"][key]["order"] == "start-first"
    assert service["stop_grace_period"] == "7s"
    assert service["environment"]["NC_PUBLIC_URL"] == f"https://{DOMAIN}"


def test_without_it_nothing_changes(tmp_path):
    wanted = stacks.application(inventory(tmp_path, hosts=HOSTS), Vault())
    service = wanted.compose["services"]["nocodb"]
    assert service["ports"][0]["published"] == 8080
    assert service["networks"] == ["backend"]
    assert service["deploy"]["update_config"]["order"] == "stop-first"
    assert "stop_signal" not in service
