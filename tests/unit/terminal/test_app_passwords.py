"""Passwords of apps: made once, kept before they are used, never made for nothing."""

from __future__ import annotations

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.config.inventory import Vault
from fabfile.terminal.app_passwords import with_app_passwords
from fabfile.vault import encryption
from fabfile.vault.encryption import encrypt
from fabfile.vault.reading import load
from tests.unit.config.test_apps import read
from tests.unit.deploy.test_other_app_stack import COMPOSE

ENTRY = "vault_kinto_postgres_password"


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The inventory with two apps, one of which has a password."""
    monkeypatch.setattr(encryption, "_ROUNDS", 1)
    (tmp_path / "password").write_text("a vault password\n")
    clear = "# ours\nvault_postgres_password: p-1\nvault_shop_postgres_password: p-2\n"
    (tmp_path / "vault.yml").write_text(encrypt(clear.encode(), "a vault password"))
    vault = {"file": "vault.yml", "password_file": "password"}
    compose = {**COMPOSE, "volumes": None, "services": {"kinto": {
        "image": "${image}", "secrets": ["database_url"]}}}  # fmt: skip
    (tmp_path / "kinto.yml").write_text(yaml.safe_dump(compose))
    apps = {"kinto": {"image": "k", "compose": "kinto.yml"}, "shop": {"image": "s"}}
    return read(tmp_path, apps, vault=vault)


def entries(vault: Vault) -> set[str]:
    return set(load(vault).names())


def test_made_and_kept(given, capsys):
    secrets = with_app_passwords(given, load(given.vault), ["kinto", "shop"], write=True)
    made = secrets.require(ENTRY).reveal()
    assert len(made) >= 32
    assert load(given.vault).require(ENTRY).reveal() == made
    assert load(given.vault).require("vault_shop_postgres_password").reveal() == "p-2"
    said = capsys.readouterr().out
    assert f"set {ENTRY}; next: commit the file" in said
    assert made not in said
    again = with_app_passwords(given, load(given.vault), ["kinto"], write=True)
    assert again.require(ENTRY).reveal() == made


def test_a_stack_that_cannot_be_rendered_leaves_the_vault_as_it_was(given, tmp_path):
    (tmp_path / "kinto.yml").unlink()
    with pytest.raises(ConfigError, match="no such compose file") as caught:
        with_app_passwords(given, load(given.vault), ["kinto"], write=True)
    assert "apps.kinto.compose" in str(caught.value.hint)
    assert ENTRY not in entries(given.vault)


def test_a_plan_writes_nothing(given, capsys):
    secrets = with_app_passwords(given, load(given.vault), ["kinto"], write=False)
    assert secrets.require(ENTRY).reveal()
    assert ENTRY not in entries(given.vault)
    said = capsys.readouterr()
    assert f"{ENTRY} would be made" in said.err
    assert said.out == "", "programs read it"


def test_only_for_what_is_deployed(given):
    with_app_passwords(given, load(given.vault), ["db", "app", "shop"], write=True)
    assert ENTRY not in entries(given.vault)
