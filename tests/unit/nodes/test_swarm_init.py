"""Which steps make a Swarm of these machines, and that the join token stays out of sight."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.config import hosts_file
from fabfile.nodes import host_facts, swarm_init_commands, swarm_init_plan
from fabfile.nodes.host_facts import HostFacts, Member
from fabfile.nodes.swarm_init_plan import Join, plan
from fabfile.ssh.remote_command import Result

TOKEN = "SWMTKN-1-verysecret"
TOOLS = frozenset({"apt-get", "dockerd", "docker", "perl", "service"})
HOSTS = {
    "one": {"address": "10.0.0.1", "swarm": "manager"},
    "two": {"address": "10.0.0.2", "swarm": "manager"},
    "three": {"address": "10.0.0.3", "role": "db"},
}


@pytest.fixture
def inv(tmp_path: Path):
    return inventory(tmp_path)


def inventory(tmp_path: Path, **changes):
    hosts = {name: entry | changes.get(name, {}) for name, entry in HOSTS.items()}
    path = tmp_path / "hosts.yaml"
    path.write_text(
        yaml.safe_dump({"hosts": hosts, "s3_bucket_name": "test-bucket"}, sort_keys=False)
    )
    return hosts_file.load(path)


def fact(name: str, **changes) -> HostFacts:
    fields = {
        "system": "Debian GNU/Linux 12 (bookworm)",
        "debian_like": True,
        "tools": TOOLS,
        "hostname": name,
        "addresses": (HOSTS[name]["address"],),
        "engine": "20.10.24+dfsg1",
    }
    return HostFacts(**(fields | changes))


def facts(**changes) -> dict[str, HostFacts]:
    return {name: fact(name, **changes.get(name, {})) for name in HOSTS}


def member(name: str, *, manager: bool = False) -> Member:
    return Member(f"id-{name}", name, manager, "ready", str(HOSTS[name]["address"]))


def manager(*members: Member, swarm: str = "swarm-a") -> dict:
    """What the manager of a Swarm tells beside the rest."""
    return {
        "state": "active",
        "node_id": "id-one",
        "control": True,
        "swarm_id": swarm,
        "managers": {"10.0.0.1:2377": "id-one"},
        "members": (member("one", manager=True), *members),
    }


def worker(name: str, **changes) -> dict:
    known = {"10.0.0.1:2377": "id-one"}
    return {"state": "active", "node_id": f"id-{name}", "managers": known} | changes


def names(joins) -> list[str]:
    return [join.entry.name for join in joins]


def refusal(inv, found) -> SwarmkeepError:
    with pytest.raises(SwarmkeepError) as caught:
        plan(inv, found)
    return caught.value


# What is to be done


def test_nothing_there_yet_the_first_manager_begins_the_others_join(inv):
    steps = plan(inv, facts())
    assert steps.init == Join(inv.hosts[0], "10.0.0.1")
    assert names(steps.joins) == ["two", "three"]
    assert not steps.install
    assert not steps.start
    assert steps.manager is None


def test_everything_there_means_nothing_to_do(inv):
    found = facts(
        one=manager(member("two", manager=True), member("three")),
        two=manager(member("two", manager=True), member("three")) | {"node_id": "id-two"},
        three=worker("three"),
    )
    there = {name: f"id-{name}" for name in HOSTS}
    assert plan(inv, found) == swarm_init_plan.Plan(manager=inv.hosts[0], members=there)


def test_a_former_node_of_the_same_name_is_noticed(inv):
    old = Member("id-before", "three", False, "down", "10.0.0.3")
    found = facts(
        one=manager(member("two", manager=True), old, member("three")),
        two=manager(member("two", manager=True)) | {"node_id": "id-two"},
        three=worker("three"),
    )
    assert plan(inv, found).doubles


def test_half_a_swarm_is_completed(inv):
    steps = plan(inv, facts(one=manager()))
    assert steps.init is None
    assert steps.manager == inv.hosts[0]
    assert names(steps.joins) == ["two", "three"]


def test_engines_are_installed_where_missing_and_started_where_stopped(inv):
    found = facts(one={"engine": "", "tools": TOOLS - {"dockerd", "docker"}}, two={"engine": ""})
    steps = plan(inv, found)
    assert [entry.name for entry in steps.install] == ["one"]
    assert [entry.name for entry in steps.start] == ["two"]


def test_a_worker_that_should_be_a_manager_is_promoted(inv):
    found = facts(
        one=manager(member("two"), member("three")), two=worker("two"), three=worker("three")
    )
    assert [entry.name for entry in plan(inv, found).promote] == ["two"]


def test_a_manager_that_should_be_a_worker_is_only_mentioned(inv):
    ours = manager(member("two", manager=True), member("three", manager=True))
    found = facts(one=ours, two=ours | {"node_id": "id-two"}, three=ours | {"node_id": "id-three"})
    steps = plan(inv, found)
    assert len(steps.notes) == 1
    assert "docker node demote three" in steps.notes[0]
    assert not steps.joins


def test_a_node_that_was_removed_from_our_swarm_joins_again(inv):
    found = facts(
        one=manager(member("two", manager=True)),
        two=manager(member("two", manager=True)) | {"node_id": "id-two"},
        three=worker("three"),
    )
    assert plan(inv, found).joins == [Join(inv.hosts[2], "10.0.0.3", "active:id-three")]


def test_a_join_that_hangs_on_one_of_our_hosts_is_begun_again(inv):
    hanging = {"state": "pending", "managers": {"10.0.0.1:2377": ""}}
    steps = plan(inv, facts(three=hanging))
    assert steps.joins[-1] == Join(inv.hosts[2], "10.0.0.3", "pending:")


# What is refused, before any change


@pytest.mark.parametrize(
    "other",
    [
        worker("three", managers={"192.0.2.9:2377": "id-else"}),
        {"state": "pending", "managers": {"192.0.2.9:2377": ""}},
        {"state": "pending", "node_id": "id-x", "managers": {"10.0.0.1:2377": ""}},
        {"state": "active", "node_id": "id-y", "control": True, "swarm_id": "swarm-b"},
    ],
)
@pytest.mark.parametrize("first", [{}, manager()])
def test_a_host_of_another_swarm_is_refused(inv, first, other):
    error = refusal(inv, facts(one=first, three=other))
    assert "another Swarm" in error.message
    assert error.message.startswith("three: ")
    assert "docker swarm leave --force" in error.hint


def test_managers_of_two_swarms_are_refused(inv):
    other = manager(swarm="swarm-b") | {"node_id": "id-z"}
    error = refusal(inv, facts(one=manager(), two=other))
    assert error.message == "one and two are managers of two different Swarms"


def test_a_swarm_without_quorum_is_refused(inv):
    error = refusal(inv, facts(one=manager() | {"members": ()}))
    assert any("quorum" in line for line in (error.message, *error.details))


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"engine": "19.3.1"}, "its Docker engine is 19.3.1", "upgrade"),
        ({"hostname": "ip-10-0-0-3"}, "'ip-10-0-0-3'", "hosts.three.node: ip-10-0-0-3"),
        ({"state": "locked"}, "is locked", "docker swarm unlock"),
        ({"state": "error", "error": "rpc gone"}, "rpc gone", "docker info"),
        ({"tools": TOOLS - {"perl"}}, "neither perl nor curl", "install one"),
        (
            {"engine": "", "tools": TOOLS - {"dockerd"}, "debian_like": False, "system": "Rocky 9"},
            "not on Rocky 9",
            "docs.docker.com/engine/install",
        ),
        (
            {"engine": "", "tools": frozenset({"dockerd", "perl"})},
            "neither systemd nor 'service'",
            "start dockerd",
        ),
        ({"addresses": ("10.9.0.1", "10.8.0.1")}, "(10.9.0.1, 10.8.0.1)", "advertise_addr"),
        ({"addresses": ()}, "none that it shows", "advertise_addr"),
    ],
)
def test_what_cannot_work_is_named_with_the_next_step(inv, changes, said, hint):
    error = refusal(inv, facts(three=changes))
    assert error.message.startswith("three: ")
    assert said in error.message
    assert hint in error.hint


def test_everything_that_stands_in_the_way_is_said_at_once(inv):
    error = refusal(inv, facts(two={"engine": "19.03.1"}, three={"state": "locked"}))
    assert error.message.startswith("2 things stand in the way")
    assert [line.partition(":")[0] for line in error.details] == ["two", "three"]


# The address


def test_the_only_address_serves_where_the_operator_uses_another(inv):
    assert (
        swarm_init_plan.advertised(inv.hosts[0], fact("one", addresses=("10.1.1.1",))) == "10.1.1.1"
    )


def test_its_own_address_is_preferred_and_hosts_yaml_has_the_last_word(tmp_path):
    two = fact("one", addresses=("10.1.1.1", "10.0.0.1"))
    assert swarm_init_plan.advertised(inventory(tmp_path).hosts[0], two) == "10.0.0.1"
    told = inventory(tmp_path, one={"advertise_addr": "eth1"})
    assert swarm_init_plan.advertised(told.hosts[0], two) == "eth1"


# Reading a machine

BARE = """
--swarmkeep os--
debian

Debian GNU/Linux 12 (bookworm)

--swarmkeep tools--
apt-get
perl

--swarmkeep hostname--
three

--swarmkeep addresses--
10.0.0.3 172.17.0.1 fe80::1

--swarmkeep info--
sh: 1: docker: not found
"""


def test_a_bare_machine_is_read():
    found = host_facts.parse(Result("three", 0, BARE, ""))
    assert found.system.startswith("Debian GNU/Linux 12")
    assert found.debian_like
    assert found.tools == {"apt-get", "perl"}
    assert (found.hostname, found.engine, found.state) == ("three", "", "inactive")
    assert found.addresses == ("10.0.0.3", "fe80::1")


def test_a_derivative_of_ubuntu_counts_as_one_and_rocky_does_not():
    like = BARE.replace("debian\n\n", "linuxmint\nubuntu debian\n", 1)
    assert host_facts.parse(Result("x", 0, like, "")).debian_like
    other = BARE.replace("debian\n\n", "rocky\nrhel centos fedora\n", 1)
    assert not host_facts.parse(Result("x", 0, other, "")).debian_like


def test_a_worker_is_read_with_the_managers_it_knows():
    info = {
        "Name": "three",
        "ServerVersion": "20.10.24+dfsg1",
        "Swarm": {
            "NodeID": "id-three",
            "NodeAddr": "10.0.0.3",
            "LocalNodeState": "active",
            "ControlAvailable": False,
            "RemoteManagers": [{"NodeID": "id-one", "Addr": "10.0.0.1:2377"}],
        },
    }
    text = BARE.replace("sh: 1: docker: not found", json.dumps(info))
    found = host_facts.parse(Result("three", 0, text, ""))
    assert found.managers == {"10.0.0.1:2377": "id-one"}
    assert (found.engine, found.state, found.control) == ("20.10.24+dfsg1", "active", False)


def test_gathering_changes_nothing_and_is_good_shell():
    command = host_facts.gather()
    assert not command.changes
    done = subprocess.run(
        ["sh", "-n", "-c", command.script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# The token


def test_the_join_token_is_in_stdin_and_nowhere_else():
    command = swarm_init_commands.join_swarm(
        Secret(json.dumps({"JoinToken": TOKEN})), seen="inactive:"
    )
    assert TOKEN not in command.script
    assert TOKEN.encode() in command.stdin


def test_beginning_a_swarm_does_not_print_the_token():
    assert swarm_init_commands.init_swarm("10.0.0.1; x").script == (
        "docker swarm init --advertise-addr '10.0.0.1; x' >/dev/null"
    )


SWARM = """#!/bin/sh
# An engine whose Swarm is what the file `state` says, and what the request makes of it.
cd @FOLDER@ || exit 1
case "$(basename "$0") $1" in
  "docker info") cat state ;;
  "docker swarm") echo "$*" >>left; echo inactive: >state ;;
  "perl -e") cat >>posted; cp after state; cat said >&2; [ ! -s said ] ;;
esac
"""


@pytest.fixture
def join(tmp_path: Path) -> Callable:
    """Runs the script on a machine in this state; returns how it ended and what it did."""
    for name in ("docker", "perl"):
        (tmp_path / name).write_text(SWARM.replace("@FOLDER@", str(tmp_path)))
        (tmp_path / name).chmod(0o755)

    def run(state: str, seen: str, *, after: str = "active:new", said: str = ""):
        for name, text in {"state": state, "after": after, "said": said}.items():
            (tmp_path / name).write_text(text)
        command = swarm_init_commands.join_swarm(Secret(TOKEN), seen=seen)
        done = subprocess.run(
            ["sh", "-c", command.script],
            input=command.stdin, capture_output=True, timeout=20, check=False,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        )  # fmt: skip
        left, posted = (tmp_path / "left").exists(), (tmp_path / "posted").exists()
        assert TOKEN.encode() not in done.stdout + done.stderr
        return done.returncode, done.stdout.decode().strip(), left, posted

    return run


@pytest.mark.parametrize(
    ("seen", "left"), [("inactive:", False), ("pending:", True), ("active:removed", True)]
)
def test_what_the_plan_saw_is_left_and_the_machine_joins(join, seen, left):
    assert join(seen, seen) == (0, "new", left, True)


@pytest.mark.parametrize("seen", ["inactive:", "pending:", "active:removed"])
@pytest.mark.parametrize("state", ["active:theirs", "pending:theirs", "error:theirs", "locked:"])
def test_a_machine_that_somebody_joined_meanwhile_is_left_alone(join, seen, state):
    assert join(state, seen) == (swarm_init_commands.CHANGED, state, False, False)


@pytest.mark.parametrize("state", ["active:theirs", "pending:"])
def test_a_join_that_lost_the_race_throws_nobody_out(join, state):
    said = '{"message":"This node is already part of a swarm. Use \\"docker swarm leave\\" to"}'
    found = join("inactive:", "inactive:", after=state, said=said)
    assert found == (swarm_init_commands.CHANGED, state, False, True)


@pytest.mark.parametrize(
    ("after", "left"),
    [("pending:", True), ("error:x", True), ("inactive:", False), ("active:x", False)],
)
def test_a_failed_join_does_not_go_on_in_the_background(join, after, left):
    found = join("inactive:", "inactive:", after=after, said='{"message":"Timeout was reached"}')
    assert found == (1, "", left, True)


class _Engine(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.bodies.append((self.path, self.rfile.read(length)))  # type: ignore[attr-defined]
        said = b"" if self.server.good else b'{"message":"invalid join token"}'  # type: ignore[attr-defined]
        self.send_response(200 if self.server.good else 500)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_args) -> None:
        pass

    def address_string(self) -> str:
        return "socket"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable]:
    """A Docker socket that answers /swarm/join, and a runner with only some programs on PATH."""
    path = tmp_path / "docker.sock"
    server = socketserver.ThreadingUnixStreamServer(str(path), _Engine)
    server.bodies, server.good = [], True  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def post(program: str, *, good: bool):
        assert shutil.which(program), f"please install {program}: tools/need.sh {program}"
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in (program, "head"):
            (folder / name).symlink_to(str(shutil.which(name)))
        server.good = good  # type: ignore[attr-defined]
        body = json.dumps({"JoinToken": TOKEN}).encode()
        done = subprocess.run(
            [str(shutil.which("sh")), "-c", swarm_init_commands.post_join(str(path))],
            input=body, env={"PATH": str(folder)}, capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        assert server.bodies == [("/swarm/join", body)]  # type: ignore[attr-defined]
        return done

    yield post
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("program", ["perl", "curl"])
def test_joining_posts_stdin_to_the_engine(engine, program):
    done = engine(program, good=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("program", ["perl", "curl"])
def test_a_refused_join_fails_with_the_engines_words(engine, program):
    done = engine(program, good=False)
    assert done.returncode != 0
    assert b"invalid join token" in done.stderr
    assert TOKEN.encode() not in done.stdout + done.stderr


def test_an_engine_that_is_away_is_a_failure():
    done = subprocess.run(
        ["sh", "-c", swarm_init_commands.post_join("/nowhere.sock")],
        input=b"{}",
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr
