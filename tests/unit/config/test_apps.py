"""The section apps of hosts.yaml."""

from __future__ import annotations

from typing import Any

import pytest

from fabfile import namespace
from fabfile.base.errors import ConfigError
from fabfile.config.apps import HealthRequest
from fabfile.config.hosts_file_apps_keys import RESERVED
from tests.unit.deploy.test_stacks import inventory

HOSTS = {
    "m": {"address": "192.0.2.1", "swarm": "manager"},
    "d": {"address": "192.0.2.2", "role": "db"},
    "a": {"address": "192.0.2.3", "role": "app"},
}


def read(tmp_path, apps: dict[str, Any], **more: Any):
    return inventory(tmp_path, hosts=HOSTS, apps=apps, **more)


def mistakes(tmp_path, apps: dict[str, Any], **more: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, apps, **more)
    return caught.value.details


def test_what_is_left_out_follows_from_the_name(tmp_path):
    found = read(tmp_path, {"kinto": {"image": "kinto:1"}})
    (app,) = found.apps
    assert (app.stack, app.service, app.databases, app.user) == (
        "kintostack", "kinto", ("kinto",), "kinto",
    )  # fmt: skip
    assert app.compose == tmp_path / "compose/compose-kinto.yml"
    assert app.service_name == "kintostack_kinto"
    assert app.password_entry == "vault_kinto_postgres_password"
    assert (app.health, app.volumes, app.domain, app.public_url) == (None, (), "", "")
    # Its databases are backed up like NocoDB's, and its stack is one of ours.
    assert found.postgres.databases == ("nocodb", "kinto")
    assert found.postgres.database == "nocodb"
    assert "kintostack" in found.running_stacks
    assert "kintostack" in found.every_stack
    assert [host.name for host in found.with_role("kinto")] == ["a"]
    assert found.files_of("kinto") == {}


def test_every_key(tmp_path):
    found = read(
        tmp_path,
        {"my-shop": {
            "compose": "../shop.yml", "stack": "shop", "service": "web", "image": "r:5000/shop:2",
            "replicas": 2, "port": 3000, "database": ["shop", "shop_log"], "user": "shopper",
            "volumes": ["data", "cache"], "health": {"path": "/ok?deep=1", "status": 204},
            "domain": "shop.example.com",
        }},
        app={"domain": "noco.example.com"},
        proxy={"hosts": ["a"], "email": "a@example.com"},
    )  # fmt: skip
    (app,) = found.apps
    assert (app.databases, app.user, app.port, app.replicas) == (
        ("shop", "shop_log"), "shopper", 3000, 2,
    )  # fmt: skip
    assert app.health == HealthRequest("/ok?deep=1", 204)
    assert app.public_url == "https://shop.example.com"
    assert app.password_entry == "vault_my_shop_postgres_password"
    assert found.domains == ("noco.example.com", "shop.example.com")
    assert found.files_of("shop") == {"shop_data": "shop_data", "shop_cache": "shop_cache"}
    assert found.files_of("shop_log") == {}
    assert found.files_folders == ("appstack", "shop_data", "shop_cache")
    assert (found.min_size_of("nocodb"), found.min_size_of("shop")) == (10 * 2**10, 0)


def test_what_is_about_nocodb_alone_can_leave_the_others_out(tmp_path):
    found = read(tmp_path, {"kinto": {"image": "k"}}, pg_db=["nocodb", "more"])
    assert found.postgres.databases == ("nocodb", "more", "kinto")
    assert found.without_app_databases().postgres.databases == ("nocodb", "more")
    assert found.app_of("nocodb") == "app"
    assert found.app_of("kinto") == "kinto"
    assert found.app_of("more") == ""
    assert found.app_service("app") == "appstack_nocodb"
    assert found.app_service("kinto") == "kintostack_kinto"


def test_in_a_project_its_stack_is_named_after_it(tmp_path):
    (app,) = read(tmp_path, {"kinto": {"image": "k"}}, project="blue").apps
    assert app.stack == "blue-kintostack"


@pytest.mark.parametrize("name", ["db", "app", "proxy", "backup", "nocodb", "Shop", "1x", "a_b"])
def test_a_name_that_cannot_be(tmp_path, name):
    found = mistakes(tmp_path, {name: {"image": "k"}})
    assert found[0].startswith(f"apps.{name}: ")


def test_what_two_cannot_share(tmp_path):
    found = mistakes(
        tmp_path,
        {
            "one": {"image": "k", "database": "nocodb", "stack": "dbstack", "user": "nocodb"},
            "two": {"image": "k", "database": ["x", "y"], "user": "u", "stack": "s"},
            "two-b": {"image": "k", "database": ["z", "y"], "user": "u", "stack": "s"},
        },
    )
    assert found == (
        "apps.one.stack: 'dbstack' is already stacks.db",
        "apps.one.database: 'nocodb' is already pg_db",
        "apps.one.user: 'nocodb' is already pg_user",
        "apps.two-b.stack: 's' is already apps.two.stack",
        "apps.two-b.database: 'y' is already apps.two.database",
        "apps.two-b.user: 'u' is already apps.two.user",
    )


def test_mistakes_have_their_place(tmp_path):
    apps = {"kinto": {"imge": "k", "health": {"status": 99}, "domain": "k.example.com"}}
    found = mistakes(tmp_path, apps)
    assert "apps.kinto.image: is missing" in found
    assert "apps.kinto.imge: unknown key, did you mean 'image'?" in found
    assert "apps.kinto.health.path: is missing" in found
    assert "apps.kinto.domain: needs the section 'proxy': docs/proxy.md" in found


def test_volumes_are_backed_up_by_the_hosts_only(tmp_path):
    apps = {"kinto": {"image": "k", "volumes": "data"}}
    (mistake,) = mistakes(tmp_path, apps, backup={"mode": "container"})
    assert mistake == "apps.kinto.volumes: are backed up with 'backup.mode: host' only"
    (mistake,) = mistakes(tmp_path, apps, backup={"files": False})
    assert mistake == "apps.kinto.volumes: are not backed up with 'backup.files: false'"


def test_no_app_is_called_as_a_command_is():
    """`inv deploy-app status` would be two commands."""
    commands = {name for name in namespace.task_names if "." not in name}
    assert commands <= set(RESERVED)
