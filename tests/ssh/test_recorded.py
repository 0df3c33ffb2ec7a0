"""Commands beside the deploys: one at a time and on record, over real SSH, by real scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.base.errors import SwarmkeepError
from fabfile.commands import registry as registry_commands
from fabfile.config.inventory import Inventory
from fabfile.deploy.finish_script import Options
from fabfile.deploy.labels_and_network import prepare_swarm
from fabfile.deploy.locked_change import Record, locked, on_record
from fabfile.nodes import swarm_init
from fabfile.nodes.drain import Move
from fabfile.ssh.fleet import Fleet, connect
from fabfile.swarm import audit_log, deploy_lock, deploy_lock_scripts
from fabfile.swarm.deploy_lock import LockedError
from fabfile.swarm.operator import Origin
from fabfile.swarm.placement import LabelChange
from fabfile.terminal.deploy_dialog import hosts_on_record
from fabfile.vault.encryption import encrypt
from tests import fake_engine

pytestmark = pytest.mark.thorough

WHO = Origin("ann@desk", "abc")
# What is no Docker config is answered from files, and noted.
DOCKER = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
  "config create"*) [ ! -e "$here/on_lock" ] || sh "$here/on_lock" ;;
esac
case "$*" in
  config*) exec "$here/configs.sh" "$@" ;;
  "system dial-stdio") exec "$here/engine" ;;
  --version) echo Docker version 20.10.24 ;;
  "node ps"*) cat "$here/tasks" ;;
  *)
    echo "$*" >>"$here/changes"
    if [ -e "$here/broken" ]; then cat "$here/broken" >&2; exit 1; fi
    ;;
esac
"""


def node(name: str, role: str, availability: str = "active", **labels: str) -> dict[str, Any]:
    return {
        "ID": f"id-{name}",
        "Description": {"Hostname": name},
        "Status": {"State": "ready"},
        "Spec": {"Availability": availability, "Role": "worker", "Labels": {"role": role} | labels},
    }


NETWORK, OVERLAY = (
    "answers/networks_backend",
    '{"Driver": "overlay", "Scope": "swarm", "Attachable": true}',
)


class World:
    """A manager's folder: what its docker says, what it was told, what is on record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docker").write_text(DOCKER)
        (folder / "docker").chmod(0o755)
        shutil.copy(Path(__file__).with_name("fake_docker.sh"), folder / "configs.sh")
        self.write("tasks", "")
        answers = fake_engine.EMPTY | {"info": '{"Swarm": {"ControlAvailable": true}}'}
        dial = fake_engine.folder_of_answers(folder / "answers", answers)
        self.write("engine", f"#!/bin/sh\n{dial}\n")
        (folder / "engine").chmod(0o755)
        self.write(NETWORK, OVERLAY)
        self.nodes(node("host1", "db", **{"swarmkeep.pgdata": "dbstack"}), node("app1", "app"))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def nodes(self, *nodes: dict[str, Any]) -> None:
        self.write("answers/nodes", json.dumps(nodes))

    @property
    def changes(self) -> list[str]:
        path = self.folder / "changes"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def is_locked(self) -> bool:
        return (self.folder / "configs" / deploy_lock_scripts.Names().lock).exists()

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines on record, without their times, and after the lock was given back."""
        assert not self.is_locked
        path = Path(audit_log.path(""))
        lines = path.read_text().splitlines() if path.exists() else []
        return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(audit_log, "path", lambda project: str(tmp_path / "audit.jsonl"))
    monkeypatch.setattr(deploy_lock, "POLL_SECONDS", 0.05)
    folder = tmp_path / "bin"
    folder.mkdir()
    return World(folder)


@pytest.fixture
def inventory(world: World, make_server, make_inventory) -> Inventory:
    return make_inventory(make_server(path=world.folder))


@pytest.fixture
def fleet(inventory: Inventory) -> Iterator[Fleet]:
    with connect(inventory) as fleet:
        yield fleet


@pytest.fixture
def move(fleet: Fleet) -> Callable[..., Move]:
    def make(name: str, timeout: float = 20) -> Move:
        return Move(fleet, timeout, Options(name, WHO), lambda line: None)

    return make


def entry(command: str, outcome: str, **more: Any) -> dict[str, Any]:
    return {"command": command, "outcome": outcome, "who": WHO.who, "commit": "abc"} | more


def test_a_drain_and_an_activation_are_on_record(world, move):
    move("swarm.drain app1").drain("app1", force=False)
    world.nodes(node("host1", "db"), node("app1", "app", "drain"))
    move("swarm.activate app1").activate("app1")
    assert world.changes == [
        "node update --availability drain id-app1",
        "node update --availability active id-app1",
    ]
    assert world.log == [
        entry("swarm.drain app1", "ok", changes=["node app1: drained"]),
        entry("swarm.activate app1", "ok", changes=["node app1: active"]),
    ]


def test_what_is_so_already_and_what_is_refused_leave_no_line(world, move):
    world.nodes(node("host1", "db"), node("app1", "app", "drain"))
    move("swarm.drain app1").drain("app1", force=False)
    with pytest.raises(SwarmkeepError, match="only one with role db"):
        move("swarm.drain host1").drain("host1", force=False)
    assert (world.changes, world.log) == ([], [])


def test_a_drain_waits_its_turn(world, fleet, move):
    with (
        deploy_lock.held(fleet.first_manager(), WHO, "deploy-app", wait=False, say=print),
        pytest.raises(LockedError, match=r"ann@desk since .* for 'deploy-app'"),
    ):
        move("swarm.drain app1").drain("app1", force=False)
    assert (world.changes, world.log) == ([], [])


def test_what_the_last_holder_of_the_lock_did_counts(world, move):
    """Two db nodes at the first look; once the lock is ours, somebody has drained the other."""
    now = json.dumps([node("host1", "db"), node("db2", "db", "drain")])
    world.nodes(node("host1", "db"), node("db2", "db"))
    world.write("on_lock", f"cat >{world.folder}/answers/nodes <<'END'\n{now}\nEND\n")
    with pytest.raises(SwarmkeepError, match="only one with role db"):
        move("swarm.drain host1").drain("host1", force=False)
    assert world.changes == []
    (line,) = world.log
    assert line["outcome"] == "failed"
    assert "changes" not in line


def test_a_drain_that_does_not_end_is_a_failure_on_record(world, move):
    world.write("tasks", "Running 3 minutes ago web.1\n")
    with pytest.raises(SwarmkeepError, match="after 0 s still on app1: web"):
        move("swarm.drain app1", timeout=0).drain("app1", force=False)
    error = "after 0 s still on app1: web.1"
    assert world.log == [
        entry("swarm.drain app1", "failed", changes=["node app1: drained"], error=error)
    ]


def test_a_drain_that_docker_refuses(world, move):
    world.write("broken", "rpc error: no leader\n")
    with pytest.raises(SwarmkeepError, match="setting app1 to drain failed: rpc error: no leader"):
        move("swarm.drain app1").drain("app1", force=False)
    assert [(line["outcome"], line.get("changes")) for line in world.log] == [("failed", None)]


def prepare(fleet: Fleet) -> list[str]:
    labels = [LabelChange("app1", {"role": "app"}, ())]
    options = Options("swarm.label", WHO)
    return prepare_swarm(fleet, labels, network="", options=options, say=print)


def test_labels_are_on_record_whether_they_could_be_set_or_not(world, fleet):
    assert prepare(fleet) == ["node app1: role=app"]
    world.write("broken", "node app1 not found\n")
    with pytest.raises(SwarmkeepError, match="labelling node app1 failed"):
        prepare(fleet)
    good, bad = world.log
    assert good == entry("swarm.label", "ok", changes=["node app1: role=app"])
    assert (bad["outcome"], "changes" in bad) == ("failed", False)
    assert "node app1 not found" in bad["error"]


def test_interrupted_is_no_success(world, fleet):
    record = Record(["something"])
    options = Options("x", WHO)
    with (
        pytest.raises(KeyboardInterrupt),
        locked(fleet.first_manager(), options, record, say=print),
    ):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), on_record(fleet, options, Record()):
        raise KeyboardInterrupt
    assert world.log == [
        entry("x", "failed", changes=["something"], error="interrupted"),
        entry("x", "failed", error="interrupted"),
    ]


def test_a_record_that_cannot_be_written_hides_no_verdict(world, make_server, make_inventory):
    server = make_server(path=world.folder)
    inventory = make_inventory(server)
    server.close()
    options = Options("x", WHO)
    with connect(inventory) as fleet:
        with on_record(fleet, options, Record(["y"])):
            pass
        with (
            pytest.raises(SwarmkeepError, match="the real one"),
            on_record(fleet, options, Record()),
        ):
            raise SwarmkeepError("the real one")
    assert world.log == []


def init(fleet: Fleet) -> list[str]:
    return swarm_init.Bootstrap(fleet, Options("swarm.init", WHO), lambda line: None).run()


def test_making_a_swarm_is_on_record(world, fleet, monkeypatch):
    """The machines are in a Swarm already; a label and the network are missing."""
    monkeypatch.setattr(swarm_init.Bootstrap, "_gather", lambda self: {})
    monkeypatch.setattr(swarm_init, "plan", lambda inventory, facts: swarm_init.Plan())
    world.nodes(node("host1", "none"))
    (world.folder / NETWORK).unlink()
    done = ["node host1: role=db", "network backend: created"]
    assert init(fleet) == done
    world.write("broken", "no leader\n")
    with pytest.raises(SwarmkeepError, match="no leader"):
        init(fleet)
    world.nodes(node("host1", "db"))
    world.write(NETWORK, OVERLAY)
    assert init(fleet) == []
    good, bad = world.log
    assert good == entry("swarm.init", "ok", changes=done)
    assert bad["outcome"] == "failed"


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Inventory], int]:
    """Runs `inv registry.login` with a hosts file and a vault; returns its exit code."""

    def run(inventory: Inventory) -> int:
        path = inventory.path
        path.write_text(f"{path.read_text()}registry: reg.example.com\n")
        clear = b"vault_registry_user: u\nvault_registry_password: 'geheim-123'\n"
        (tmp_path / "vault.yml").write_text(encrypt(clear, "pw"))
        monkeypatch.setenv("SWARMKEEP_VAULT_PASSWORD", "pw")
        with pytest.raises(Exit) as caught:
            registry_commands.login(Context(), hosts=str(path))
        return caught.value.code

    return run


def test_registry_logins_are_on_record_with_those_that_failed(
    world, tmp_path, make_server, make_inventory, log_in, capsys
):
    other = tmp_path / "other"
    other.mkdir()
    bad = World(other)
    bad.write("broken", "Error: unauthorized\n")
    servers = make_server(path=world.folder), make_server(path=other)
    assert log_in(make_inventory(*servers)) == 1
    (line,) = world.log
    assert (line["command"], line["outcome"]) == ("registry.login", "failed")
    assert line["changes"] == ["host1: logged in to reg.example.com"]
    assert "host2: docker login reg.example.com failed: Error: unauthorized" in line["error"]
    assert "geheim" not in Path(audit_log.path("")).read_text()
    assert "host1: logged in" in capsys.readouterr().out


def test_a_login_that_fails_everywhere_is_on_record_too(world, inventory, log_in):
    world.write("broken", "Error: unauthorized\n")
    assert log_in(inventory) == 1
    (line,) = world.log
    assert (line["outcome"], "changes" in line) == ("failed", False)
    assert "host1: docker login reg.example.com failed: Error: unauthorized" in line["error"]


def test_a_dead_host_beside_one_that_needs_nothing_costs_no_round_trip(
    world, make_server, make_inventory
):
    dead = make_server()
    inventory = make_inventory(make_server(path=world.folder), dead)
    dead.close()
    with connect(inventory) as fleet:
        outcomes = hosts_on_record(
            fleet, "x", lambda: fleet.fan_out(inventory.hosts, lambda host: host.name), lambda _: []
        )
        assert fleet.round_trips == 0
    assert [outcome.value for outcome in outcomes] == ["host1", None]
    assert world.log == []
