"""The script that changes the Swarm, run by the real sh against a docker that writes down."""

from __future__ import annotations

import os
import subprocess

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.deploy.change_script import ChangeScript, refusal_hint
from fabfile.deploy.secret_versions import SecretContent
from fabfile.ssh.remote_command import Result
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.swarm.placement import LabelChange

DOCKER = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in
  *" inspect"*) exit ${HAS_SECRET:-1} ;;
  *" -") cat >>"$LOG"; echo >>"$LOG" ;;
  *"stack deploy"*)
    cat >>"$LOG"; echo >>"$LOG"
    [ -z "$BROKEN" ] || { echo "$BROKEN" >&2; exit 1; } ;;
esac
"""
SECRET = SecretContent(SecretVersion("db_pw_1f", "db_pw"), b"p'w \"$(x)\n\xff")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    log = tmp_path / "log"

    def do(script: ChangeScript, **env: str) -> tuple[Result, bytes]:
        log.write_bytes(b"")
        done = subprocess.run(
            ["sh", "-c", script.text],
            input=script.stdin,
            capture_output=True,
            check=False,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log), **env},
        )
        result = Result("m1", done.returncode, done.stdout.decode(), done.stderr.decode())
        return result, log.read_bytes()

    return do


def everything(*, registry_auth: bool = False) -> ChangeScript:
    script = ChangeScript()
    script.labels([LabelChange("db1", {"role": "db"}, ("old",))])
    script.network("backend")
    script.secrets([SECRET])
    script.stack(
        "dbstack",
        "services: {}\n",
        cli_major=20,
        resolve_image="changed",
        registry_auth=registry_auth,
    )
    script.remove("dbstack_old")
    return script


def test_all_steps_run_in_order_each_with_its_own_input(run):
    script = everything()
    result, log = run(script)
    script.check(result)
    lines = log.split(b"\n")
    assert lines[0] == b"node update --label-add role=db --label-rm old db1"
    assert lines[1] == b"network create --driver overlay --attachable backend"
    assert lines[2] == b"secret inspect db_pw_1f"
    assert lines[3] == b"secret create --label swarmkeep.secret=db_pw db_pw_1f -"
    assert b"\n".join(lines[4:6]) == SECRET.content
    assert b"services: {}" in log
    assert lines[-2] == b"service rm dbstack_old"


@pytest.mark.parametrize(
    ("registry_auth", "flags"), [(True, b"--with-registry-auth "), (False, b"")]
)
def test_the_managers_login_goes_along_where_a_registry_is_named(run, registry_auth, flags):
    script = everything(registry_auth=registry_auth)
    result, log = run(script)
    script.check(result)
    line = b"stack deploy --compose-file - --resolve-image changed %bdbstack" % flags
    assert line in log.split(b"\n")


def test_nothing_of_a_secret_is_in_the_script():
    assert "p'w" not in everything().text
    assert "create" in everything().text


def test_secret_that_is_there_already_is_left_alone(run):
    script = ChangeScript()
    script.secrets([SECRET])
    result, log = run(script, HAS_SECRET="0")
    script.check(result)
    assert b"secret create" not in log


def test_first_failure_ends_it_and_is_named(run):
    script = everything()
    result, log = run(script, BROKEN="network backend is wrong")
    with pytest.raises(SwarmkeepError) as caught:
        script.check(result)
    assert (
        caught.value.message == "m1: docker stack deploy dbstack failed: network backend is wrong"
    )
    assert b"service rm" not in log


def test_what_was_done_is_told():
    assert everything().done == [
        "node db1: role=db -old",
        "network backend: created",
        "secret db_pw: new version db_pw_1f",
    ]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("services.a.deploy Additional property pids is not allowed", "'version:'"),
        ("unsupported Compose file version: 3.13", "the highest 'version:'"),
        ("Compose file contains unsupported options:\n\nmem_limit: Set limits", "compose/"),
        ("services.a.environment.A must be a string, number or null", "in quotes"),
        ("services.a.stop_grace_period Does not match format 'duration'", "fix that value"),
        ("1 error(s) decoding:\n\n* error decoding 'Ports': Invalid containerPort: b", "fix that"),
        ("service a: Unknown mode: globel", "fix that value"),
        ("service a: test and disable can't be set at the same time", "fix that value"),
        ('service a: undefined network "gone"', "fix the compose file"),
        ('network "gone" is declared as external, but could not be found. You need', "external"),
        ("service a: secret not found: gone", "external"),
        ("failed to update service a: rpc error: code = Unimplemented desc = service mode change "
         "is not allowed", "docker service rm"),
        ("failed to update config c1: only updates to Labels are allowed", "another name"),
        ("port '80' is already in use by service 'x'", "choose another"),
        ("something that nobody has seen yet", "then run the same again"),
        ("", "then run the same again"),
    ],
)  # fmt: skip
def test_what_docker_refuses_comes_with_a_next_step(said, hint):
    assert hint in refusal_hint(said)


def test_the_next_step_is_part_of_the_failure(run):
    script = everything()
    result, _ = run(script, BROKEN="a.limits Additional property pids is not allowed")
    with pytest.raises(SwarmkeepError) as caught:
        script.check(result)
    assert "'version:'" in caught.value.hint


def test_a_config_of_a_file_is_made_with_all_that_belongs_to_it(run):
    version = SecretVersion("s_conf_1f", "s_conf", "config", "s")
    script = ChangeScript()
    script.secrets([SecretContent(version, b"listen 80\n", (("a", "b c"),), "golang")])
    assert script.done == ["config s_conf: new version s_conf_1f"]
    result, log = run(script)
    script.check(result)
    assert (
        b"config create --label a=b c --label swarmkeep.config=s_conf --label swarmkeep=file "
        b"--label swarmkeep.file=s --template-driver golang s_conf_1f -" in log
    )
