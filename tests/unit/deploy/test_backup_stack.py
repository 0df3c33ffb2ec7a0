"""The stack of a backup in a container, and the image that it runs."""

from __future__ import annotations

import io
import re
import tarfile

import pytest

from fabfile.backup import container, container_image
from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.deploy import backup_stack
from tests.unit.deploy.test_stacks import PASSWORD, Vault, inventory

HOSTS = {
    "m": {"address": "192.0.2.1", "swarm": "manager"},
    "d": {"address": "192.0.2.2", "role": "db"},
    "a": {"address": "192.0.2.3", "role": "app"},
}


class WithKeys(Vault):
    """A vault that has more than the password."""

    def __init__(self, **entries: str) -> None:
        super().__init__()
        self._more = entries

    def get(self, name: str) -> Secret | None:
        return Secret(self._more[name]) if name in self._more else None


def hosts(tmp_path, **backup):
    return inventory(tmp_path, hosts=HOSTS, backup={"mode": "container", **backup})


def test_what_is_not_wanted_is_not_in_it(tmp_path):
    wanted = backup_stack.backup(hosts(tmp_path, files=False), Vault())
    assert wanted.services == ("backupstack_database",)
    assert set(wanted.compose["secrets"]) == {"postgres_password", "database_settings"}
    assert set(wanted.compose["volumes"]) == {"state"}


def test_with_attachments_and_an_aws_key(tmp_path):
    keys = {"vault_aws_access_key_id": "AKIA", "vault_aws_secret_access_key": "geheim-1"}
    wanted = backup_stack.backup(hosts(tmp_path), WithKeys(**keys))
    assert set(wanted.services) == {"backupstack_database", "backupstack_files"}
    files = wanted.compose["services"]["files"]
    assert {one["source"] for one in files["secrets"]} == {"files_settings", "aws_credentials"}
    assert wanted.compose["volumes"]["attachments"]["name"] == "appstack_data"
    # Each secret is a version of its own, and none of them is in what Docker shows.
    shown = wanted.stack_input
    assert PASSWORD not in shown
    assert "geheim-1" not in shown
    with pytest.raises(Exception, match="one half of the nodes' AWS key"):
        backup_stack.backup(hosts(tmp_path), WithKeys(vault_aws_access_key_id="AKIA"))


def test_every_secret_is_roots_and_there_is_no_docker_socket(tmp_path):
    keys = {"vault_aws_access_key_id": "AKIA", "vault_aws_secret_access_key": "x1234"}
    wanted = backup_stack.backup(hosts(tmp_path), WithKeys(**keys))
    for service in wanted.compose["services"].values():
        assert all(one["mode"] == 0o400 for one in service["secrets"])
        assert "docker.sock" not in str(service)
        assert "privileged" not in service


def test_settings_for_the_container(tmp_path):
    wanted = backup_stack.backup(
        hosts(tmp_path, pitr=True, timezone="Europe/Berlin", schedule="5 1 * * *"), Vault()
    )
    (settings,) = [
        one.content.decode() for one in wanted.secrets if "database_settings" in one.version.name
    ]
    found = dict(line.split("=", 1) for line in settings.splitlines() if not line.startswith("#"))
    assert found["ACCESS"] == "network"
    assert found["BACKUP_DIR"] == container.FOLDER
    assert found["SCHEDULE"] == "'5 1 * * *'"
    assert found["TIMEZONE"] == "Europe/Berlin"
    assert found["PITR"] == "yes"
    assert "NODE" not in found


def test_a_project_has_its_own(tmp_path):
    mine = inventory(tmp_path, hosts=HOSTS, project="acme", backup={"mode": "container"})
    wanted = backup_stack.backup(mine, Vault())
    assert wanted.name == "acme-backupstack"
    assert backup_stack.volumes(mine) == ("acme-backupstack_state", "acme-backupstack_files_state")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"drill_with_app": True}, "backup.drill_with_app: needs Docker"),
        ({"metrics_directory": "/var/x"}, "backup.metrics_directory: is a host's"),
        ({"timezone": "Europe/Nowhere"}, "is no time zone that is known here"),
        ({"mode": "host", "timezone": "UTC"}, "backup.timezone: needs backup.mode: container"),
        ({"mode": "both"}, "backup.mode"),
    ],
)
def test_what_does_not_go_with_the_mode_is_refused(tmp_path, changes, problem):
    with pytest.raises(ConfigError) as caught:
        hosts(tmp_path, **changes)
    assert problem in "\n".join([caught.value.message, *caught.value.details])


def test_the_image_is_named_after_all_that_it_is_made_of(tmp_path, monkeypatch):
    first = container_image.image_of(hosts(tmp_path))
    assert re.fullmatch(r"swarmkeep/backup:[0-9a-f]{12}", first)
    assert container_image.image_of(hosts(tmp_path)) == first
    other = inventory(
        tmp_path,
        hosts=HOSTS,
        backup={"mode": "container"},
        images={"postgres": "postgres:16-bookworm"},
    )
    assert container_image.image_of(other) != first
    named = inventory(
        tmp_path, hosts=HOSTS, backup={"mode": "container"}, images={"backup": "r.example.com/b:1"}
    )
    assert container_image.image_of(named) == "r.example.com/b:1"
    files = container_image.files()
    monkeypatch.setattr(container_image, "files", lambda: files | {"bin/backup-pg.sh": b"other"})
    assert container_image.image_of(hosts(tmp_path)) != first


def test_the_image_has_every_part_that_a_script_sources_and_no_docker_in_them():
    sourced = set()
    with tarfile.open(fileobj=io.BytesIO(container_image.context())) as archive:
        names = archive.getnames()
        for name in names:
            text = archive.extractfile(name).read().decode()  # type: ignore[union-attr]
            for parts in re.findall(r"^for PART in ([a-z -]+); do", text, re.M):
                sourced |= {f"lib/{part}.sh" for part in parts.split()}
    assert sourced
    assert sourced <= set(names)
    assert "lib/access-docker.sh" not in names
    assert {"Dockerfile", "lib/backup-scheduler.py", "bin/wal-pg.sh"} <= set(names)
