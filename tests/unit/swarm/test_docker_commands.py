"""Docker commands as exact strings, and parsing what a real Docker 20.10 manager said."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import Result
from fabfile.swarm import docker_commands
from fabfile.swarm.convergence import Baseline, judge
from fabfile.swarm.docker_commands import SecretVersion
from fabfile.swarm.state import Cluster
from fabfile.swarm.state_reading import parse_cluster, refreshed, split_sections

OBSERVED = (Path(__file__).parents[1] / "data" / "observe-20.10.txt").read_text()
HOSTILE = "a b'c\"d$(touch pwned);e"


def parse(text: str, stderr: str = "") -> Cluster:
    return parse_cluster(Result("manager1", 0, text, stderr))


def test_a_real_manager_is_read():
    cluster = parse(OBSERVED)
    assert cluster.cli_major == 20
    roles = {n.name: (n.manager, n.labels.get("role"), n.state) for n in cluster.nodes}
    assert roles == {
        "manager1": (True, None, "ready"),
        "db1": (False, "db", "ready"),
        "app1": (False, "app", "ready"),
    }
    assert cluster.network is not None
    assert (cluster.network["Driver"], cluster.network["Attachable"]) == ("overlay", True)
    assert [s.name for s in cluster.services] == ["appstack_nocodb", "dbstack_root_db"]
    assert {s.base for s in cluster.secrets} == {
        "dbstack_postgres_password",
        "appstack_nocodb_database",
    }


@pytest.mark.parametrize("stack", ["dbstack", "appstack"])
def test_a_real_converged_stack_is_judged_converged(stack):
    # Docker shows a task's specification otherwise than its service's: this is the real pair.
    (progress,) = judge(parse(OBSERVED), stack, Baseline(frozenset(), {}))
    assert progress.done


def test_only_what_moves_is_read_again():
    seen = parse(OBSERVED)
    sections = split_sections(OBSERVED)
    services = sections["services"].replace('"Replicas": 1', '"Replicas": 0', 1)
    assert services != sections["services"]
    text = "".join(
        f"\n--swarmkeep {name}--\n{body}"
        for name, body in [("now", "2030-01-01T00:00:00Z"), ("services", services), ("tasks", "[]")]
    )
    now = refreshed(seen, Result("manager1", 0, text, ""))
    assert now is not None
    assert (now.now, now.tasks) == ("2030-01-01T00:00:00Z", ())
    assert sorted(s.replicas or 0 for s in now.services) == [0, 1]
    assert replace(now, now=seen.now, tasks=seen.tasks, services=seen.services) == seen
    assert [s.name for s in now.services] == [s.name for s in seen.services]


def test_a_manager_that_cannot_tell_has_not_lost_its_services():
    said = Result("manager1", 1, "\n--swarmkeep now--\n2030-01-01T00:00:00Z\n", "")
    assert refreshed(parse(OBSERVED), said) is None


def test_machine_without_docker():
    text = "\n--swarmkeep info--\nsh: 1: docker: not found\n--swarmkeep cli--\n--swarmkeep now--\n"
    with pytest.raises(SwarmkeepError) as caught:
        parse(text)
    assert caught.value.message == "manager1: Docker does not answer: sh: 1: docker: not found"


def test_docker_that_is_down_prints_json_with_errors():
    text = '\n--swarmkeep info--\n{"ServerErrors":["Cannot connect"]}\nCannot connect\n'
    with pytest.raises(SwarmkeepError, match="Docker does not answer"):
        parse(text)


@pytest.mark.parametrize("state", ["inactive", "active", "pending"])
def test_machine_that_is_no_manager(state):
    info = json.dumps({"Swarm": {"LocalNodeState": state, "ControlAvailable": False}})
    text = f"\n--swarmkeep info--\n{info}\n"
    with pytest.raises(SwarmkeepError) as caught:
        parse(text)
    assert f"is not a Swarm manager (Swarm is {state} there)" in caught.value.message


def test_swarm_without_quorum():
    text = '\n--swarmkeep info--\n{"Swarm":{"ControlAvailable":true}}\n--swarmkeep cli--\n20\n'
    with pytest.raises(SwarmkeepError, match="does not answer: rpc error"):
        parse(text, "rpc error: no leader")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            docker_commands.label_node("db1", {"role": "db"}, ["old"]),
            "docker node update --label-add role=db --label-rm old db1",
        ),
        (
            docker_commands.create_network("backend"),
            "docker network create --driver overlay --attachable backend",
        ),
        (
            docker_commands.create_version(SecretVersion("dbstack_pw_1f", "dbstack_pw")),
            "docker secret create --label swarmkeep.secret=dbstack_pw dbstack_pw_1f -",
        ),
        (
            docker_commands.deploy_stack("dbstack", cli_major=20, resolve_image="changed"),
            "docker stack deploy --compose-file - --resolve-image changed dbstack",
        ),
        (
            docker_commands.deploy_stack(
                "s", cli_major=20, resolve_image="changed", unset=["LANG", "A B"]
            ),
            "env -u LANG -u 'A B' docker stack deploy --compose-file - --resolve-image changed s",
        ),
        (
            docker_commands.deploy_stack("dbstack", cli_major=26, resolve_image="never"),
            "docker stack deploy --compose-file - --resolve-image never --detach=true dbstack",
        ),
        (
            docker_commands.deploy_stack(
                "dbstack", cli_major=20, resolve_image="always", registry_auth=True
            ),
            "docker stack deploy --compose-file - --resolve-image always --with-registry-auth "
            "dbstack",
        ),
    ],
)
def test_exact_commands(command, expected):
    assert command == expected


@pytest.mark.parametrize(
    "command",
    [
        docker_commands.label_node(HOSTILE, {HOSTILE: HOSTILE}, [HOSTILE]),
        docker_commands.create_network(HOSTILE),
        docker_commands.create_version(SecretVersion(HOSTILE, HOSTILE)),
        docker_commands.deploy_stack(HOSTILE, cli_major=26, resolve_image="never"),
        docker_commands.task_logs(HOSTILE, 5),
    ],
)
def test_hostile_values_stay_one_word(command):
    assert any(HOSTILE in word for word in shlex.split(command))
