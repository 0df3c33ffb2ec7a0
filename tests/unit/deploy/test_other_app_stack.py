"""The stack of an app beside NocoDB, from its compose file, hosts.yaml and the vault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.deploy import other_app_stack, proxy_stack
from tests.unit.config.test_apps import HOSTS
from tests.unit.deploy import test_stacks
from tests.unit.deploy.test_stacks import inventory

PASSWORD = "p/ss:w@rd"
COMPOSE: dict[str, Any] = {
    "version": "3.8",
    "services": {
        "kinto": {
            "image": "${image}",
            "environment": {"URL": "${public_url}", "DB": "${db_host}/${db_name}/${db_user}"},
            "secrets": ["database_url"],
            "volumes": ["data:/data"],
            "networks": ["backend"],
            "ports": ["8888:8888"],
            "deploy": {
                "replicas": "${replicas}",
                "placement": {"constraints": ["node.labels.${role_label} == app"]},
            },
        }
    },
    "secrets": {"database_url": {"external": True, "name": "${secret_database_url}"}},
    "volumes": {"data": {"name": "${stack}_data"}},
    "networks": {"backend": {"external": True, "name": "${network}"}},
}


class Vault(test_stacks.Vault):
    file = Path("vault.yml")

    def require(self, name: str) -> Secret:
        if name == "vault_kinto_postgres_password":
            return Secret(PASSWORD)
        return super().require(name)


def stack(
    tmp_path,
    compose: dict[str, Any] | None = None,
    app: Any = None,
    nocodb: Any = None,
    **more: Any,
):
    path = tmp_path / "kinto.yml"
    path.write_text(yaml.safe_dump(compose or COMPOSE))
    settings = {"image": "kinto:1", "compose": "kinto.yml", "volumes": "data", **(app or {})}
    more |= {"app": nocodb} if nocodb else {}
    found = inventory(tmp_path, hosts=HOSTS, apps={"kinto": settings}, **more)
    return other_app_stack.other_app(found.apps[0], found, Vault()), found


def test_filled_in(tmp_path):
    wanted, _ = stack(tmp_path)
    service = wanted.compose["services"]["kinto"]
    assert (wanted.name, wanted.role, wanted.image) == ("kintostack", "kinto", "kinto:1")
    assert service["environment"] == {"DB": "dbstack_root_db/kinto/kinto"}
    assert service["ports"] == ["8888:8888"]
    assert service["deploy"]["placement"]["constraints"] == ["node.labels.role == app"]
    assert wanted.compose["volumes"]["data"]["name"] == "kintostack_data"
    assert wanted.role_password == PASSWORD
    assert PASSWORD not in wanted.stack_input
    assert wanted.redact(f"cannot log in with {PASSWORD} or p%2Fss%3Aw%40rd").count(PASSWORD) == 0


def test_secrets_are_made_as_the_compose_file_wants_them(tmp_path):
    (secret,) = stack(tmp_path)[0].secrets
    assert secret.content == b"postgresql://kinto:p%2Fss%3Aw%40rd@dbstack_root_db:5432/kinto"
    assert secret.version.base == "kintostack_database_url"
    bare = {"database_password": {"external": True, "name": "${secret_database_password}"}}
    services = {"kinto": {**COMPOSE["services"]["kinto"], "secrets": ["database_password"]}}
    (secret,) = stack(tmp_path, {**COMPOSE, "secrets": bare, "services": services})[0].secrets
    assert secret.content == PASSWORD.encode()


def test_behind_the_proxy(tmp_path):
    wanted, found = stack(
        tmp_path,
        app={"domain": "kinto.example.com", "port": 8888},
        nocodb={"domain": "noco.example.com"},
        proxy={"certificates": "internal"},
    )
    service = wanted.compose["services"]["kinto"]
    assert "ports" not in service
    assert service["environment"]["URL"] == "https://kinto.example.com"
    assert service["deploy"]["endpoint_mode"] == "dnsrr"
    assert service["deploy"]["update_config"]["order"] == "start-first"
    text = proxy_stack.caddyfile(found)
    assert "https://kinto.example.com {" in text
    assert "dynamic a kintostack_kinto 8888 {" in text
    # How it ends is its own matter.
    assert "stop_signal" not in service
    assert service["stop_grace_period"] == "10s"
    assert "dynamic a appstack_nocodb 8080 {" in text


def test_an_app_behind_the_proxy_keeps_its_own_networks_and_its_way_to_end(tmp_path):
    services = {
        "kinto": {
            **COMPOSE["services"]["kinto"], "networks": ["frontend", "backend"],
            "stop_grace_period": "2m", "stop_signal": "SIGINT",
        }
    }  # fmt: skip
    networks = {**COMPOSE["networks"], "frontend": None}
    wanted, found = stack(
        tmp_path,
        {**COMPOSE, "services": services, "networks": networks},
        app={"domain": "kinto.example.com"},
        nocodb={"domain": "noco.example.com"},
        proxy={"certificates": "internal"},
    )
    service = wanted.compose["services"]["kinto"]
    assert service["networks"] == ["frontend", "backend", "swarmkeep_proxy"]
    assert (service["stop_grace_period"], service["stop_signal"]) == ("2m", "SIGINT")
    assert wanted.compose["networks"]["frontend"] is None
    assert wanted.compose["networks"]["swarmkeep_proxy"]["name"] == found.proxy.network


def test_of_secrets_that_are_declared_only_those_of_services_are_made(tmp_path):
    both = {
        name: {"external": True, "name": f"${{secret_{name}}}"}
        for name in ("database_url", "database_password")
    }
    (secret,) = stack(tmp_path, {**COMPOSE, "secrets": both})[0].secrets
    assert secret.version.base == "kintostack_database_url"


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in COMPOSE.items() if k != key}


@pytest.mark.parametrize(
    ("compose", "app", "problem"),
    [
        (without("secrets"), {}, "services.kinto: its secret 'database_url' is not declared"),
        (
            {**COMPOSE, "services": {"kinto": {**COMPOSE["services"]["kinto"], "secrets": []}}},
            {},
            "no service has a secret with the database's password",
        ),
        ({**COMPOSE, "secrets": ["database_url"]}, {}, "kinto.yml: secrets is not a mapping"),
        ({**COMPOSE, "volumes": ["data"]}, {}, "kinto.yml: volumes is not a mapping"),
        ({**COMPOSE, "secrets": {"database_url": "x"}}, {}, "secrets.database_url is not a map"),
        (
            {**COMPOSE, "services": {**COMPOSE["services"], "worker": None}},
            {},
            "services.worker is not a mapping",
        ),
        (COMPOSE, {"service": "web"}, "has no service 'web', which apps.kinto names"),
        (without("volumes"), {}, "has no volume 'data' named kintostack_data"),
        ({**COMPOSE, "volumes": {"data": None}}, {}, "has no volume 'data' named kintostack_data"),
        ({**COMPOSE, "x": "${nocodb_image}"}, {}, r"unknown name \$\{nocodb_image\}"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, compose, app, problem):
    with pytest.raises(ConfigError, match=problem):
        stack(tmp_path, compose, app)


def test_a_compose_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="no such compose file"):
        stack(tmp_path, app={"compose": "nowhere.yml"})
