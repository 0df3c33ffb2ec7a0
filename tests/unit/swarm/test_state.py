"""The script that reads a whole cluster, run by the real sh with a docker that is a script."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.remote_command import Result
from fabfile.swarm.state import Cluster
from fabfile.swarm.state_reading import (
    look_command,
    parse_cluster,
    refreshed,
    side_by_side,
    watch_command,
)
from tests import fake_engine

NODE = {
    "ID": "n1",
    "Description": {"Hostname": "manager1"},
    "Status": {"State": "ready"},
    "Spec": {"Availability": "active", "Role": "manager"},
}
BIG = 300_000
"""More than a pipe holds."""
ANSWERS = fake_engine.EMPTY | {
    "info": '{"Swarm":{"ControlAvailable":true}}',
    "nodes": json.dumps([NODE | {"Padding": "x" * BIG}]),
    "networks/backend": '{"Driver":"overlay"}',
    "networks": '[{"Id":"id1","Name":"backend"},{"Id":"id2","Name":"ingress"}]',
    "secrets": '[{"Spec":{"Name":"a_1","Labels":{"swarmkeep.secret":"a"}}}]',
}
RECORDS = "c1 r1 swarmkeep=release,path=C:\\new"


def ran(folder: Path, script: str, answers: dict[str, str], records: str | None) -> Result:
    """Run a script with a docker that gives these answers and fails for everything else."""
    engine = fake_engine.folder_of_answers(folder / "answers", answers)
    listed = "exit 1" if records is None else f"printf '%s\\n' {shlex.quote(records)}"
    (folder / "docker").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'"system dial-stdio") {engine} ;;\n'
        '--version) echo "Docker version 26.1.0, build 1" ;;\n'
        f'"config ls"*) {listed} ;;\n'
        '*) echo "refused: docker $*" >&2; exit 1 ;;\nesac\n'
    )
    (folder / "docker").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Result("manager1", done.returncode, done.stdout.decode(), done.stderr.decode())


def observe(folder: Path, answers: dict[str, str], records: str | None = RECORDS) -> Cluster:
    """What a manager tells whose docker gives these answers."""
    return parse_cluster(
        ran(folder, look_command("backend", ("db", "it's")).script, answers, records)
    )


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
    others = service | {"ID": "v2", "Spec": service["Spec"] | {"Name": "other_one", "Labels": {}}}
    more = {
        "services": json.dumps([service]),
        "services.label": json.dumps([others, service]),
        # One is of a service that is gone.
        "tasks": json.dumps([task, task | {"ID": "t0", "ServiceID": "v0"}]),
        "tasks.label": json.dumps([task, task | {"ID": "t2", "ServiceID": "v2"}]),
    }
    cluster = observe(tmp_path, ANSWERS | more)
    assert [one.name for one in cluster.stack("db")] == ["db_one"]
    assert [one.name for one in cluster.services] == ["db_one", "other_one"]
    assert [one.id for one in cluster.tasks] == ["t1", "t2"]
    # While we wait, only what is ours is asked for.
    now = refreshed(cluster, ran(tmp_path, watch_command(["db"]).script, more, None))
    assert now is not None
    assert [one.id for one in now.services] == ["v1"]
    assert [one.id for one in now.tasks] == ["t1"]
    (tmp_path / "answers" / "tasks").unlink()
    assert refreshed(cluster, ran(tmp_path, watch_command(["db"]).script, {}, None)) is None


@pytest.mark.parametrize("list_", [*fake_engine.EMPTY, "services.label", "tasks.label", "records"])
def test_list_that_cannot_be_had_is_never_taken_for_an_empty_one(tmp_path, list_):
    answers = {"services.label": "[]", "tasks.label": "[]"} | ANSWERS
    # Without this one, the answer of the other kind would be given.
    answers.pop(list_, None)
    others = {"services.label": "services", "tasks.label": "tasks"}
    answers.pop(others.get(list_, ""), None)
    with pytest.raises(SwarmkeepError, match="the Swarm does not answer") as caught:
        observe(tmp_path, answers, None if list_ == "records" else RECORDS)
    assert "gone" in caught.value.message or list_ == "records"


def test_answer_that_ends_too_early_is_never_taken_for_an_empty_one(tmp_path):
    whole = ran(tmp_path, look_command("backend", ("db",)).script, ANSWERS, RECORDS)
    assert parse_cluster(whole).services == ()
    # Wherever it ends before its last list has come: those that are there look complete.
    begin = [at for at in range(len(whole.stdout)) if whole.stdout.startswith("HTTP/1.1", at)]
    assert len(begin) == 10
    end = whole.stdout.index("\n--swarmkeep cli--")
    for at in begin[1:9]:
        cut = Result("manager1", 0, whole.stdout[: at + 12] + whole.stdout[end:], "")
        with pytest.raises(SwarmkeepError, match="answer ends too early"):
            parse_cluster(cut)


def test_no_network_is_no_failure(tmp_path):
    answers = {words: text for words, text in ANSWERS.items() if words != "networks/backend"}
    assert observe(tmp_path, answers).network is None


def test_machine_that_is_no_manager_says_so(tmp_path):
    info = '{"Swarm":{"LocalNodeState":"active","ControlAvailable":false}}'
    with pytest.raises(SwarmkeepError, match="is not a Swarm manager"):
        observe(tmp_path, {"info": info})


def test_engine_that_does_not_answer_is_told_in_its_own_words(tmp_path):
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'permission denied' >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    script = look_command("backend", ["db"]).script
    done = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
    )
    with pytest.raises(SwarmkeepError, match="Docker does not answer: permission denied"):
        parse_cluster(Result("manager1", 0, done.stdout.decode(), done.stderr.decode()))


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
