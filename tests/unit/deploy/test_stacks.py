"""The two compose files of the repository, filled in from an inventory and a vault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.config import hosts_file
from fabfile.config.inventory import Inventory
from fabfile.deploy import secret_versions, stacks

PASSWORD = "p@ss 'word\"/$(x)"


class Vault:
    """Stands for an opened vault."""

    def __init__(self, key: bytes = b"key", password: str = PASSWORD) -> None:
        self._key, self._password = key, password

    def require(self, name: str) -> Secret:
        if name != "vault_postgres_password":
            raise ConfigError(f"{name}: missing")
        return Secret(self._password)

    def get(self, _name: str) -> Secret | None:
        return None

    def name_key(self) -> bytes:
        return self._key


def inventory(tmp_path: Path, **changes: Any) -> Inventory:
    data = {
        "hosts": {
            "m": {"address": "192.0.2.1", "swarm": "manager"},
            "d": {"address": "192.0.2.2", "role": "db"},
        },
        "s3_bucket_name": "test-bucket",
        **changes,
    }
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump(data))
    return hosts_file.load(path)


def test_database_stack(tmp_path):
    wanted = stacks.database(inventory(tmp_path), Vault())
    service = wanted.compose["services"]["root_db"]
    assert wanted.services == ("dbstack_root_db",)
    assert service["image"] == "postgres:17-bookworm"
    assert service["deploy"]["replicas"] == 1
    assert service["deploy"]["update_config"]["order"] == "stop-first"
    assert service["deploy"]["endpoint_mode"] == "dnsrr"
    assert (
        "node.labels.swarmkeep.pgdata.dbstack == true"
        in service["deploy"]["placement"]["constraints"]
    )
    assert service["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres_password"
    assert wanted.compose["networks"]["backend"] == {"external": True, "name": "backend"}


def test_the_volume_is_the_one_that_hosts_yaml_names(tmp_path):
    """By default it is that of all earlier installations, under the name that it had."""
    found = stacks.database(inventory(tmp_path), Vault())
    assert found.compose["volumes"]["pgdata"] == {"name": "dbstack_pgdata"}
    found = stacks.database(inventory(tmp_path, db={"volume": "pgdata_17"}), Vault())
    assert found.compose["volumes"]["pgdata"] == {"name": "dbstack_pgdata_17"}


def test_a_compose_file_of_ones_own_must_know_the_volume(tmp_path):
    """Else another volume would be used than the one that is named."""
    text = (stacks.COMPOSE_FOLDER / "compose-db.yml").read_text()
    (tmp_path / "compose-db.yml").write_text(text.replace("${pg_volume}", "${db_stack}_pgdata"))
    stacks.database(inventory(tmp_path), Vault(), tmp_path)
    with pytest.raises(ConfigError, match="no volume called dbstack_pgdata_17") as caught:
        stacks.database(inventory(tmp_path, db={"volume": "pgdata_17"}), Vault(), tmp_path)
    assert "name: ${pg_volume}" in caught.value.hint


def test_every_service_names_its_project(tmp_path):
    wanted = stacks.database(inventory(tmp_path, project="staging"), Vault())
    (service,) = wanted.compose["services"].values()
    assert service["deploy"]["labels"] == {"swarmkeep.project": f"staging:{wanted.project.id}"}
    assert "node.labels.role.staging == db" in service["deploy"]["placement"]["constraints"]


def test_a_release_of_an_earlier_version_is_pinned_by_todays_labels(tmp_path):
    inv = inventory(tmp_path, project="staging", stacks={"db": "dbstack", "app": "appstack"})
    deploy = {
        "labels": ["a=b=c"],
        "placement": {
            "constraints": [
                "node.labels.role == db",
                "node.labels.swarmkeep.pgdata==dbstack",
                "node.hostname != x",
            ]
        },
    }
    old = stacks.Wanted("dbstack", "db", "i", {"services": {"s": {"deploy": deploy}}}, (), ())
    now = stacks.labelled(old, inv, Vault()).compose["services"]["s"]["deploy"]
    assert now["labels"]["a"] == "b=c"
    assert now["placement"]["constraints"] == [
        "node.labels.role.staging == db",
        "node.labels.swarmkeep.pgdata.dbstack == true",
        "node.hostname != x",
    ]


def test_the_service_name_comes_from_the_inventory(tmp_path):
    wanted = stacks.database(inventory(tmp_path, db_service_name="dbstack_pg"), Vault())
    assert wanted.services == ("dbstack_pg",)


@pytest.mark.parametrize(
    ("image", "target", "pgdata"),
    [
        ("postgres:15-bookworm", "/var/lib/postgresql/data", "/var/lib/postgresql/data/pgdata"),
        ("postgres:18-trixie", "/var/lib/postgresql", "/var/lib/postgresql/18/docker"),
    ],
)
def test_the_volume_is_where_the_image_keeps_its_data(tmp_path, image, target, pgdata):
    wanted = stacks.database(inventory(tmp_path, images={"postgres": image}), Vault())
    service = wanted.compose["services"]["root_db"]
    assert service["volumes"][0]["target"] == target
    assert service["environment"]["PGDATA"] == pgdata


def test_the_app_gets_its_connection_from_a_secret_and_nowhere_else(tmp_path):
    wanted = stacks.application(inventory(tmp_path), Vault())
    (secret,) = wanted.secrets
    assert json.loads(secret.content) == {
        "client": "pg",
        "connection": {
            "host": "dbstack_root_db",
            "port": 5432,
            "user": "nocodb",
            "password": PASSWORD,
            "database": "nocodb",
        },
    }
    assert PASSWORD not in wanted.stack_input
    assert PASSWORD not in repr(secret)


def test_app_settings_reach_the_compose_file(tmp_path):
    app = {"replicas": 3, "port": 9090, "port_mode": "host", "endpoint_mode": "dnsrr"}
    wanted = stacks.application(inventory(tmp_path, app=app), Vault())
    service = wanted.compose["services"]["nocodb"]
    assert service["ports"] == [{"target": 8080, "published": 9090, "mode": "host"}]
    assert service["deploy"]["replicas"] == 3
    assert "NC_PUBLIC_URL" not in service["environment"]
    assert (
        wanted.with_replicas("nocodb", 1).compose["services"]["nocodb"]["deploy"]["replicas"] == 1
    )
    assert service["deploy"]["replicas"] == 3


def test_secret_names_change_with_content_and_with_key_only(tmp_path):
    inv = inventory(tmp_path)
    names = [
        stacks.database(inv, vault).secrets[0].version.name
        for vault in (Vault(), Vault(), Vault(password="other"), Vault(key=b"other"))
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_two_stacks_with_the_same_content_have_other_hashes():
    first = secret_versions.versioned(b"k", "a", "s", b"x").version.name
    second = secret_versions.versioned(b"k", "b", "s", b"x").version.name
    assert first.rpartition("_")[2] != second.rpartition("_")[2]


def test_secrets_are_taken_out_of_foreign_text(tmp_path):
    wanted = stacks.database(inventory(tmp_path), Vault())
    assert wanted.redact(f"FATAL: {PASSWORD} is wrong") == "FATAL: [redacted] is wrong"


def test_compose_file_that_lost_its_secret_is_refused(tmp_path):
    broken = yaml.safe_load((stacks.COMPOSE_FOLDER / "compose-db.yml").read_text())
    broken["secrets"] = {}
    (tmp_path / "compose-db.yml").write_text(yaml.safe_dump(broken))
    with pytest.raises(ConfigError, match="does not declare the secret"):
        stacks.database(inventory(tmp_path), Vault(), tmp_path)
