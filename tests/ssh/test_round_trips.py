"""What an unchanged deploy costs in round trips: a number that must not grow."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from fabfile.config.inventory import Inventory
from fabfile.deploy import observation, preflight, releases, stacks
from fabfile.deploy.deployment import Deployment
from fabfile.deploy.finish_script import Options
from fabfile.deploy.planning import make_plan
from fabfile.deploy.service_spec import specification
from fabfile.deploy.stacks import Wanted
from fabfile.ssh.fleet import connect
from fabfile.swarm.operator import Origin
from tests import fake_engine
from tests.unit.deploy.test_stacks import Vault

NOW = "2026-11-22T10:00:00.0Z"


@pytest.fixture
def database(tmp_path: Path, make_server, make_inventory) -> tuple[Inventory, Wanted]:
    """One host that is manager and db host, and on which the database runs as wanted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    inventory = make_inventory(make_server(path=folder))
    wanted = stacks.database(inventory, Vault())
    answers, engine = _answers(wanted)
    cases = "\n".join(
        f"  {shlex.quote(words)}*) printf '%s\\n' {shlex.quote(text)} ;;"
        for words, text in answers.items()
    )
    dial = fake_engine.folder_of_answers(folder / "answers", engine)
    cases += f'\n  "system dial-stdio") {dial} ;;'
    # Whatever else is asked would be a change, and is refused.
    script = f'#!/bin/sh\ncase "$*" in\n{cases}\n  *) echo "docker $*?" >&2; exit 9 ;;\nesac\n'
    (folder / "docker").write_text(script)
    (folder / "docker").chmod(0o755)
    return inventory, wanted


def _answers(wanted: Wanted) -> tuple[dict[str, str], dict[str, str]]:
    """What the `docker` command says, by its words, and what the engine's API does."""
    spec, unknown = specification(wanted.compose, "root_db", wanted.name)
    assert unknown == ()
    labels = {
        "role": "db",
        f"swarmkeep.pgdata.{wanted.name}": "true",
        f"swarmkeep.project.{wanted.name}": wanted.project.label,
    }
    node = {
        "ID": "n1",
        "Description": {"Hostname": "host1"},
        "Status": {"State": "ready"},
        "Spec": {"Availability": "active", "Role": "manager", "Labels": labels},
    }
    task = {
        "ID": "t1",
        "ServiceID": "s1",
        "NodeID": "n1",
        "CreatedAt": NOW,
        "DesiredState": "running",
        "Status": {"State": "running", "Timestamp": NOW},
        "Spec": spec["TaskTemplate"],
    }
    version = wanted.secrets[0].version
    secret = {"Spec": {"Name": version.name, "Labels": {"swarmkeep.secret": version.base}}}
    images = {"root_db": spec["TaskTemplate"]["ContainerSpec"]["Image"]}
    digest = releases.digest(wanted, images)
    record = (
        f"c1 r1 swarmkeep=release,swarmkeep.stack={wanted.name},swarmkeep.number=1,"
        f"swarmkeep.digest={digest},swarmkeep.secrets={version.name}"
    )
    network = {"Driver": "overlay", "Scope": "swarm", "Attachable": True}
    service = {"ID": "s1", "Spec": spec, "UpdatedAt": NOW}
    engine: dict[str, Any] = {
        "info": {"Swarm": {"ControlAvailable": True}},
        "nodes": [node],
        "networks/backend": network,
        "networks": [{"Id": "backend", "Name": "backend"}],
        "secrets": [secret],
        "services": [service],
        "tasks": [task],
    }
    cli = {
        "info --format {{.Swarm.NodeID}}": "n1",
        "--version": "Docker version 20.10.24",
        "config ls": record,
        "image inspect": "[]",
        "volume inspect": "[]",
    }
    return cli, {key: json.dumps(value) for key, value in engine.items()}


def test_plan_and_unchanged_deploy_only_look(database):
    inventory, wanted = database
    plans = []
    with connect(inventory) as fleet:
        seen = observation.look(fleet, [wanted])
        # This host is asked about the Swarm and about itself.
        assert fleet.round_trips == 2
        assert not make_plan(inventory, wanted, seen, preflight.Allowed()).changes
        report = Deployment(
            fleet,
            wanted,
            Options("deploy-db", Origin("a@b", "")),
            say=print,
            show=plans.append,
            confirm=lambda plan: pytest.fail(f"asked: {plan}"),
            verify=lambda cluster: None,
        ).run(seen)
        assert fleet.round_trips == 2
    assert not report.changed
    # The next stack may be planned from the same look.
    assert report.at_rest
    assert len(plans) == 1
