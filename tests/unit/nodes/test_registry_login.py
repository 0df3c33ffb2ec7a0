"""The registry's password goes through stdin; what is missing is said before anything is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.config import hosts_file
from fabfile.nodes import registry_login
from fabfile.ssh.fleet import connect
from fabfile.vault.reading import REGISTRY_PASSWORD, REGISTRY_USER, Secrets


def inventory(tmp_path: Path, **more):
    hosts = {"m": {"address": "192.0.2.1", "swarm": "manager", "role": "db"}}
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump({"hosts": hosts, "s3_bucket_name": "test-bucket"} | more))
    return hosts_file.load(path)


def test_the_password_is_in_stdin_and_names_are_quoted():
    command = registry_login.login_command("reg.example.com:5000", "it's me", "pass-word")
    assert command.script == (
        "docker login --username 'it'\"'\"'s me' --password-stdin reg.example.com:5000 >/dev/null"
    )
    assert command.stdin == b"pass-word"


def test_without_a_registry_there_is_nothing_to_log_in_to(tmp_path):
    with pytest.raises(ConfigError) as caught:
        registry_login.required(inventory(tmp_path))
    assert "names no registry" in caught.value.message
    assert "registry: host" in caught.value.hint


def test_a_missing_entry_is_found_before_any_host_is_contacted(tmp_path):
    inv = inventory(tmp_path, registry="reg.example.com")
    secrets = Secrets(Path("vault.yml"), Secret("pw"), {REGISTRY_USER: Secret("u")})
    with connect(inv) as fleet, pytest.raises(ConfigError, match=REGISTRY_PASSWORD):
        registry_login.login(fleet, secrets)
    assert fleet.round_trips == 0


@pytest.mark.parametrize(("known", "said"), [("reg.example.com", "had one"), ("other.com", "")])
def test_logging_out_says_whether_there_was_a_login(tmp_path, known, said):
    (tmp_path / "config.json").write_text(f'{{"auths": {{"{known}": {{"auth": "x"}}}}}}')
    (tmp_path / "docker").write_text("#!/bin/sh\necho Removing\n")
    (tmp_path / "docker").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", registry_login.logout_command("reg.example.com").script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DOCKER_CONFIG": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == said
