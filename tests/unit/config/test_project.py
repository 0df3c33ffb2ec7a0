"""Identity and names of a project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.config import hosts_file, project
from fabfile.config.project import Project
from fabfile.vault.project_identity import project_of
from fabfile.vault.reading import Secrets

TEXT = """
hosts:
  m: {address: 192.0.2.1, swarm: manager}
  d: {address: 192.0.2.2, role: db}
  a: {address: 192.0.2.3, role: app}
s3_bucket_name: backups
"""


def load(tmp_path, text=TEXT):
    path = tmp_path / "hosts.yaml"
    path.write_text(text)
    return hosts_file.load(path)


def secrets(**values):
    kept = {name: Secret(value) for name, value in values.items()}
    return Secrets(Path("vault.yml"), Secret("the vault's password"), kept)


def test_without_a_project_everything_is_named_as_ever(tmp_path):
    inventory = load(tmp_path)
    assert inventory.named("backup-pg") == "backup-pg"
    assert inventory.role_label == "role"
    assert inventory.postgres.service == "dbstack_root_db"
    assert inventory.backup.directory == "/var/backups/postgres"


def test_a_project_is_in_every_name_that_no_stack_is_in(tmp_path):
    inventory = load(tmp_path, f"project: staging\n{TEXT}")
    assert inventory.named("backup-pg") == "backup-pg-staging"
    assert inventory.role_label == "role.staging"
    assert inventory.postgres.service == "staging-dbstack_root_db"
    assert inventory.app.stack == "staging-appstack"
    assert inventory.backup.directory == "/var/backups/postgres-staging"


def test_stacks_that_are_named_keep_their_names(tmp_path):
    inventory = load(tmp_path, f"project: staging\nstacks: {{db: data}}\n{TEXT}")
    assert inventory.postgres.stack == "data"


@pytest.mark.parametrize("name", ["Staging", "a b", "-a", "a-", "postgres", "files", "x" * 31])
def test_a_name_that_cannot_be_used_everywhere_is_refused(tmp_path, name):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"project: {name}\n{TEXT}")
    assert "project: " in caught.value.details[0]


def test_the_identity_comes_from_the_name_key_and_not_from_the_password(tmp_path):
    inventory = load(tmp_path)
    first = project_of(inventory, secrets(vault_name_key="k" * 32))
    again = replace(secrets(vault_name_key="k" * 32), password=Secret("another password"))
    assert project_of(inventory, again) == first
    assert project_of(inventory, secrets(vault_name_key="x" * 32)) != first
    assert project_of(inventory, secrets()).id not in ("", first.id)


def test_a_hosts_file_with_the_vault_of_another_project_is_refused(tmp_path):
    inventory = replace(load(tmp_path), project_id="0" * 16)
    with pytest.raises(ConfigError, match="project_id is 0000000000000000, but the vault"):
        project_of(inventory, secrets(vault_name_key="k" * 32))


@pytest.mark.parametrize("one", [Project("", "3f2a"), Project("staging", "3f2a")])
def test_labels_tell_name_and_identity(one):
    assert project.from_label(one.label) == one
