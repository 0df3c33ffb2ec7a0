"""Which manager is asked: the first that answers for the Swarm, not only over SSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.deploy import observation
from fabfile.ssh.fleet import connect
from tests import fake_engine

GOOD = fake_engine.EMPTY | {"info": '{"Swarm": {"ControlAvailable": true}}'}
NO_ENGINE = None
WORKER = {"info": '{"Swarm": {"LocalNodeState": "active"}}'}
AWAY: dict[str, str] = {}


@pytest.fixture
def managers(tmp_path: Path, make_server, make_inventory):
    """An inventory of managers whose engines give these answers."""

    def make(*engines: dict[str, str] | None):
        servers = []
        for number, answers in enumerate(engines):
            folder = tmp_path / f"bin{number}"
            folder.mkdir()
            engine = "echo 'Cannot connect to the Docker daemon' >&2; exit 1"
            if answers is not None:
                engine = fake_engine.folder_of_answers(folder / "answers", answers)
            (folder / "docker").write_text(
                f'#!/bin/sh\ncase "$*" in\n"system dial-stdio") {engine} ;;\n'
                "--version) echo Docker version 20.10.24 ;;\nesac\n"
            )
            (folder / "docker").chmod(0o755)
            servers.append(make_server(path=folder))
        inventory = make_inventory(*servers)
        for server, answers in zip(servers, engines, strict=True):
            if answers is AWAY:
                server.close()
        return inventory

    return make


@pytest.mark.parametrize("bad", [NO_ENGINE, WORKER, AWAY], ids=["no engine", "a worker", "away"])
def test_the_next_one_is_asked_and_stays_the_one(managers, bad):
    with connect(managers(bad, GOOD)) as fleet:
        manager, cluster = observation.observe_any(fleet)
        assert manager.name == "host2"
        assert cluster.cli_major == 20
        assert fleet.first_manager().name == "host2"
        before = fleet.round_trips
        assert observation.look(fleet, []).manager.name == "host2"
        # The one that did not answer is not tried again.
        assert fleet.round_trips == before + 1


def test_a_deploys_look_finds_it_too(managers):
    with connect(managers(NO_ENGINE, GOOD)) as fleet:
        assert observation.look(fleet, []).manager.name == "host2"


def test_nobody_answers_and_each_ones_reason_is_told(managers):
    with (
        connect(managers(NO_ENGINE, WORKER)) as fleet,
        pytest.raises(SwarmkeepError, match="no manager answers for the Swarm") as caught,
    ):
        observation.observe_any(fleet)
    assert caught.value.exit_code == 1
    assert "host1: Docker does not answer" in caught.value.details[0]
    assert "host2: is not a Swarm manager" in caught.value.details[1]
    assert caught.value.hint


def test_the_only_one_s_own_error_is_shown(managers):
    with connect(managers(AWAY)) as fleet, pytest.raises(UnreachableError, match="host1"):
        observation.observe_any(fleet)
