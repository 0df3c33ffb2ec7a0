"""The script that reads a whole cluster, run by the real sh with a docker that is a script."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import Result
from fabfile.swarm.state import Cluster
from fabfile.swarm.state_reading import look_command, parse_cluster, side_by_side

NODE = {
    "ID": "n1",
    "Description": {"Hostname": "manager1"},
    "Status": {"State": "ready"},
    "Spec": {"Availability": "active", "Role": "manager"},
}
BIG = 300_000
"""More than a pipe holds."""
ANSWERS = {
    "info --format {{json .}}": '{"Swarm":{"ControlAvailable":true}}',
    "version --format {{.Client.Version}}": "26.1.0",
    "node ls -q": "n1",
    "node inspect n1": json.dumps([NODE | {"Padding": "x" * BIG}]),
    "network inspect backend": '[{"Driver":"overlay"}]',
    "network ls": "id1 backend\nid2 ingress",
    "config ls": "c1 r1 swarmkeep=release,path=C:\\new",
    "secret ls -q": "s1",
    "secret inspect s1": '[{"Spec":{"Name":"a_1","Labels":{"swarmkeep.secret":"a"}}}]',
    "service ls -q --filter name=db_ --filter name=it's_": "",
    "service ls -q --filter label=swarmkeep.project": "",
}


def observe(folder: Path, answers: dict[str, str], stacks=("db", "it's")) -> Cluster:
    """Run the script with a docker that gives these answers and fails for everything else."""
    for number, (words, text) in enumerate(answers.items()):
        (folder / f"{number}.words").write_text(words)
        (folder / f"{number}.text").write_text(text + "\n")
    (folder / "docker").write_text(
        "#!/bin/sh\n"
        f"for file in {folder}/*.words; do\n"
        '  case "$*" in "$(cat "$file")"*) exec cat "${file%.words}.text" ;; esac\n'
        "done\n"
        'echo "refused: docker $*" >&2; exit 1\n'
    )
    (folder / "docker").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", look_command("backend", stacks).script],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return parse_cluster(Result("manager1", done.returncode, done.stdout, done.stderr))


def test_everything_arrives_whole_and_in_its_place(tmp_path):
    cluster = observe(tmp_path, ANSWERS)
    assert cluster.cli_major == 26
    assert [node.name for node in cluster.nodes] == ["manager1"]
    assert cluster.network == {"Driver": "overlay"}
    assert cluster.networks == {"id1": "backend", "id2": "ingress"}
    assert cluster.records[0].labels == {"swarmkeep": "release", "path": "C:\\new"}
    assert [secret.name for secret in cluster.secrets] == ["a_1"]
    assert cluster.services == ()
    assert cluster.tasks == ()


def test_services_come_with_their_tasks(tmp_path):
    service = {
        "ID": "v1",
        "Spec": {
            "Name": "db_one",
            "Labels": {"com.docker.stack.namespace": "db"},
            "Mode": {"Replicated": {"Replicas": 1}},
            "TaskTemplate": {"ContainerSpec": {"Image": "one:1"}},
        },
    }
    task = {
        "ID": "t1",
        "ServiceID": "v1",
        "DesiredState": "running",
        "CreatedAt": "2026-11-22T10:00:00Z",
        "Status": {"State": "running", "Timestamp": "2026-11-22T10:00:00Z"},
        "Spec": {},
    }
    more = {
        "service ls -q --filter name=db_ --filter name=it's_": "v1",
        "service ls -q --filter label=swarmkeep.project": "v1",
        "service inspect v1": json.dumps([service]),
        "service ps -q --no-trunc v1": "t1\nt1",
        "inspect --type task t1": json.dumps([task]),
    }
    cluster = observe(tmp_path, ANSWERS | more)
    assert [one.name for one in cluster.stack("db")] == ["db_one"]
    assert [one.id for one in cluster.tasks_of(cluster.services[0])] == ["t1"]


@pytest.mark.parametrize(
    "list_",
    [
        "node ls -q",
        "network ls",
        "config ls",
        "secret ls -q",
        "service ls -q --filter name",
        "service ls -q --filter label",
    ],
)
def test_list_that_cannot_be_had_is_never_taken_for_an_empty_one(tmp_path, list_):
    answers = {words: text for words, text in ANSWERS.items() if not words.startswith(list_)}
    with pytest.raises(SwarmkeepError, match="the Swarm does not answer"):
        observe(tmp_path, answers)


def test_no_network_is_no_failure(tmp_path):
    answers = {words: text for words, text in ANSWERS.items() if words != "network inspect backend"}
    assert observe(tmp_path, answers).network is None


def test_machine_that_is_no_manager_says_so(tmp_path):
    info = '{"Swarm":{"LocalNodeState":"active","ControlAvailable":false}}'
    with pytest.raises(SwarmkeepError, match="is not a Swarm manager"):
        observe(tmp_path, {"info --format {{json .}}": info})


def test_scripts_side_by_side_run_at_the_same_time(tmp_path):
    # Each waits for the other's sign: one after the other they would wait for ever.
    scripts = [
        f"mkfifo {tmp_path}/a; echo first\n: >{tmp_path}/a.ready\ncat {tmp_path}/a\n",
        f"while [ ! -e {tmp_path}/a.ready ]; do sleep 0.01; done\n"
        f"echo from the second >{tmp_path}/a\necho second\n",
    ]
    done = subprocess.run(
        ["sh", "-c", side_by_side(scripts)],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split() == ["first", "from", "the", "second", "second"]
