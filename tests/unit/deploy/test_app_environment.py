"""NocoDB's own settings, from the vault to the process, and nowhere else."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.deploy import app_environment

SETTINGS = {"NC_AUTH_JWT_SECRET": 'it\'s "odd" $(x) \\ ü\u2028', "NC_SMTP_PORT": "25"}


def vault(text: str | None) -> SimpleNamespace:
    return SimpleNamespace(file="vault.yml", get=lambda _name: Secret(text) if text else None)


def test_the_entry_is_an_object_of_texts():
    assert app_environment.of(vault(None)) == {}
    assert app_environment.of(vault(json.dumps(SETTINGS))) == SETTINGS


@pytest.mark.parametrize("text", ["x", "[]", '{"a": 1}', '{"a b": "c"}', '{"a": {"b": "c"}}'])
def test_anything_else_is_refused_and_not_shown(text):
    with pytest.raises(ConfigError, match="no JSON object of variables and texts"):
        app_environment.of(vault(text))


def test_long_values_are_never_shown():
    assert app_environment.hidden(SETTINGS) == [SETTINGS["NC_AUTH_JWT_SECRET"]]


@pytest.mark.parametrize(
    "environment", [{"NODE_OPTIONS": "--max-old-space-size=512"},
                    ["NODE_OPTIONS=--max-old-space-size=512"], None]
)  # fmt: skip
def test_the_secret_is_added_to_what_is_there(environment):
    compose = {
        "services": {"nocodb": {"environment": environment, "secrets": ["mine"]}, "x": {}},
        "secrets": {"mine": {}},
    }
    found = app_environment.added(compose, "app_nocodb_environment_1")
    service = found["services"]["nocodb"]
    options = service["environment"]["NODE_OPTIONS"]
    assert options.endswith("--require=/run/secrets/nocodb_environment")
    assert options.startswith("--max-old-space-size=512 ") is bool(environment)
    assert service["secrets"] == [
        "mine", {"source": "nocodb_environment", "target": "nocodb_environment"},
    ]  # fmt: skip
    assert found["secrets"]["nocodb_environment"]["name"] == "app_nocodb_environment_1"
    assert found["services"]["x"] == {}
    assert compose["secrets"] == {"mine": {}}


@pytest.mark.skipif(
    not shutil.which("node"), reason="the end-to-end test runs it in NocoDB's image"
)
def test_node_has_the_settings_but_for_those_of_the_service(tmp_path: Path):
    secret = tmp_path / "nocodb_environment"
    secret.write_bytes(app_environment.script(SETTINGS | {"MINE": "other"}))
    done = subprocess.run(
        [shutil.which("node"), "-p", "JSON.stringify(process.env)"],
        env={"NODE_OPTIONS": f"--require={secret}", "MINE": "own"},
        capture_output=True, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in SETTINGS} == SETTINGS
    assert seen["MINE"] == "own"
