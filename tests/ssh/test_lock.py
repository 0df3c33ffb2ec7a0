"""The deploy lock over real SSH, by real scripts, with a `docker config` that keeps its word."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fabfile.config.inventory import Inventory
from fabfile.ssh.fleet import connect
from fabfile.ssh.remote_command import Command
from fabfile.swarm import deploy_lock, deploy_lock_scripts, deploy_lock_times, operator
from fabfile.swarm.deploy_lock import Lease, LockedError, LockLostError
from fabfile.swarm.operator import Origin

pytestmark = pytest.mark.thorough

LONG_AGO = "2026-01-01T00:00:00.0Z"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_lock, "POLL_SECONDS", 0.05)


@pytest.fixture
def swarm(tmp_path: Path) -> Path:
    """The folder in which the fake Swarm keeps its configs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("fake_docker.sh"), folder / "docker")
    (folder / "configs").mkdir()
    return folder / "configs"


@pytest.fixture
def inventory(swarm, make_server, make_inventory) -> Inventory:
    return make_inventory(make_server(path=swarm.parent))


@pytest.fixture
def client(inventory) -> Callable[..., AbstractContextManager[Lease]]:
    """Makes a context in which a client of its own holds the lock."""

    @contextmanager
    def hold(
        who: str = "alice", *, wait: bool = False, said: list[str] | None = None
    ) -> Iterator[Lease]:
        with connect(inventory) as fleet:
            manager = fleet.first_manager()
            say = (said if said is not None else []).append
            with deploy_lock.held(manager, Origin(who, ""), "deploy", wait=wait, say=say) as lease:
                yield lease

    return hold


@pytest.fixture
def peek(inventory):

    def look():
        with connect(inventory) as fleet:
            return deploy_lock.peek(fleet.first_manager())

    return look


def of_another_process(swarm: Path, mark: str = "") -> None:
    """Make the lock one whose client cannot be found here."""
    import base64
    import json

    data = swarm / deploy_lock_scripts.Names().lock / "data"
    said = json.loads(base64.b64decode(data.read_text()))
    data.write_text(base64.b64encode(json.dumps(said | {"process": mark}).encode()).decode())


def age(swarm: Path) -> None:
    """Let everything in the Swarm have been made long ago."""
    for created in swarm.glob("*/created"):
        created.write_text(LONG_AGO)


def test_one_holds_it_and_the_next_is_told_who_since_when_and_why(client, swarm):
    with client("alice"):
        with pytest.raises(LockedError) as caught, client("bob"):
            pass
        assert "another deploy is running: alice since 20" in caught.value.message
        assert "for 'deploy'" in caught.value.message
        assert "inv unlock" in caught.value.hint
    assert list(swarm.iterdir()) == []
    with client("bob"):
        pass


def test_what_is_asked_for_comes_in_the_same_round_trip(inventory):
    with connect(inventory) as fleet:
        manager = fleet.first_manager()
        also = "echo; echo '--swarmkeep more--'; echo hello\n"
        with deploy_lock.held(
            manager, Origin("a", ""), "x", wait=False, say=print, also=also
        ) as lease:
            assert lease.output["more"].strip() == "hello"
            lease.release()
    assert fleet.round_trips == 2


def test_two_projects_have_locks_of_their_own(client, inventory, swarm):
    """Neither waits for the other, nor takes its changes for those of its own lost client."""
    other = replace(inventory, project="staging")
    with connect(other) as fleet, client("alice") as first:
        manager = fleet.first_manager()
        with deploy_lock.held(manager, Origin("bob", ""), "x", wait=False, say=print) as second:
            inside = "docker config ls -q >/dev/null\n"
            assert first.change(inside).exit_code == 0
            assert second.change(inside).exit_code == 0
            assert deploy_lock.peek(manager).who == "bob"
            assert (swarm / "swarmkeep-lock-staging").exists()
        assert deploy_lock.peek(manager) is None
        assert first.change(inside).exit_code == 0
    assert list(swarm.iterdir()) == []


def test_a_running_change_of_another_project_keeps_nobody_waiting(inventory, swarm, client):
    with connect(replace(inventory, project="staging")) as fleet:
        mark = deploy_lock_scripts.guard_script(
            deploy_lock_scripts.Names("staging"), "gone", "t", 1, ""
        ).splitlines()[0]
        fleet.first_manager().run(Command(mark))
    (left,) = swarm.iterdir()
    with client("alice"):
        pass
    assert list(swarm.iterdir()) == [left]


def test_waiting_ends_when_the_lock_is_given_back(client):
    order: list[str] = []
    said: list[str] = []

    def second() -> None:
        with client("bob", wait=True, said=said):
            order.append("bob has it")

    with client("alice"):
        thread = threading.Thread(target=second)
        thread.start()
        end = time.monotonic() + 20
        while not said and time.monotonic() < end:
            time.sleep(0.05)
        order.append("alice gives it back")
    thread.join(20)
    assert order == ["alice gives it back", "bob has it"]
    assert said[0].startswith("waiting for alice since ")


def test_changes_run_and_their_result_comes_back(client, swarm):
    with client() as lease:
        result = lease.change("cat; echo $((6 * 7)); exit 9", b"input ")
        assert (result.stdout, result.exit_code) == ("input 42\n", 9)
    assert list(swarm.iterdir()) == []


def test_holder_without_a_sign_of_life_loses_it_and_can_change_nothing_more(
    client, swarm, tmp_path
):
    said: list[str] = []
    with client("alice") as alice:
        of_another_process(swarm)
        age(swarm)
        with client("bob", said=said) as bob:
            assert "taking the lock of a client that is gone: alice" in said[0]
            with pytest.raises(LockLostError, match="no longer ours"):
                alice.change(f"touch {tmp_path}/alice")
            assert not (tmp_path / "alice").exists()
            assert bob.change(f"touch {tmp_path}/bob").exit_code == 0
    assert (tmp_path / "bob").exists()
    assert list(swarm.iterdir()) == []


def test_giving_back_a_lost_lock_does_not_take_the_next_holders(client, swarm, peek):
    with client("carol") as carol:
        of_another_process(swarm)
        age(swarm)
        with client("bob"):
            carol.release()
            assert peek().who == "bob"


def test_client_that_ended_on_this_machine_is_gone_at_once(client, swarm):
    code = "from fabfile.swarm import operator; print(operator.process())"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    said: list[str] = []
    with client("alice"):
        of_another_process(swarm, done.stdout.strip())
        with client("bob", said=said):
            assert "a client that is gone" in said[0]


def test_beats_keep_a_lock_beyond_its_lease(client, swarm, monkeypatch):
    monkeypatch.setattr(deploy_lock, "BEAT_SECONDS", 0.1)
    seen: set[str] = set()
    with client("alice"):
        of_another_process(swarm)
        end = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < end:
            now = {path.name for path in swarm.glob("*-beat-*")}
            # The one before goes when the next one is there.
            assert len(now) <= 2
            seen |= now
            time.sleep(0.02)
        assert len(seen) >= 3
        # As old as can be, but a beat is young.
        (swarm / deploy_lock_scripts.Names().lock / "created").write_text(LONG_AGO)
        with pytest.raises(LockedError), client("bob"):
            pass
    assert list(swarm.iterdir()) == []


def test_last_change_and_the_end_of_the_lock_are_one_round_trip(inventory, swarm, tmp_path):
    with connect(inventory) as fleet:
        manager = fleet.first_manager()
        with deploy_lock.held(manager, Origin("a", ""), "x", wait=False, say=print) as lease:
            before = fleet.round_trips
            result = lease.finish(f"cat >{tmp_path}/kept; echo done; exit 7", b"release")
            assert (result.stdout, result.exit_code) == ("done\n", 7)
            assert list(swarm.iterdir()) == []
        assert fleet.round_trips == before + 1
    assert (tmp_path / "kept").read_text() == "release"


def test_who_lost_the_lock_finishes_nothing(client, swarm, tmp_path, peek):
    with client("alice") as alice:
        of_another_process(swarm)
        age(swarm)
        with client("bob"):
            with pytest.raises(LockLostError):
                alice.finish(f"touch {tmp_path}/alice")
            assert peek().who == "bob"
    assert not (tmp_path / "alice").exists()
    assert list(swarm.iterdir()) == []


def test_what_a_machine_that_ended_hard_has_left_is_tidied_up(client, swarm):
    with client("alice") as alice:
        alice.change("true")
        for kind, label in (("change", "swarmkeep.change=dead"), ("clock", "swarmkeep=clock")):
            left = swarm / f"swarmkeep-{kind}-dead"
            left.mkdir()
            (left / "labels").write_text(f"{label}\n")
            (left / "data").write_text("")
            (left / "created").write_text(LONG_AGO)
            (left / "id").write_text(f"id-{kind}\n")
    assert len(list(swarm.iterdir())) == 2
    with client("bob"):
        pass
    assert list(swarm.iterdir()) == []


def test_attempt_of_a_client_that_was_killed_meanwhile_leaves_nothing(client, swarm):
    with client("alice"):
        before = set(swarm.iterdir())
        script = deploy_lock_scripts.attempt_script(deploy_lock_scripts.Names(), "dead")
        run = subprocess.Popen(
            ["sh", "-c", script],
            env={"PATH": f"{swarm.parent}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # As sshd starts it; Python itself ignores the signal.
            restore_signals=True,
        )
        assert run.stdout
        run.stdout.close()
        run.wait(20)
        assert set(swarm.iterdir()) == before


def test_change_of_a_lost_client_is_waited_for(client, swarm, tmp_path):
    """Two never change things together, though the first one's lock was taken away."""
    log = tmp_path / "log"
    said: list[str] = []
    with client("alice") as alice:
        script = f"echo alice begins >>{log}; sleep 1; echo alice ends >>{log}"
        thread = threading.Thread(target=alice.change, args=(script,))
        thread.start()
        end = time.monotonic() + 20
        while not log.exists() and time.monotonic() < end:
            time.sleep(0.05)
        shutil.rmtree(swarm / deploy_lock_scripts.Names().lock)  # as inv unlock does
        with client("bob", wait=False, said=said) as bob:
            bob.change(f"echo bob >>{log}")
        thread.join(20)
    assert log.read_text().splitlines() == ["alice begins", "alice ends", "bob"]
    assert "waiting for the last change of a lost client" in said


def test_change_that_hangs_is_ended_well_within_the_lease(client, monkeypatch):
    assert deploy_lock_times.CHANGE_SECONDS < deploy_lock_times.LEASE_SECONDS - 10
    monkeypatch.setattr(deploy_lock_scripts, "CHANGE_SECONDS", 1)
    with client() as lease, pytest.raises(deploy_lock.SwarmkeepError, match="took longer than"):
        lease.change("sleep 30")


def test_many_at_once_never_overlap(client, tmp_path):
    log = tmp_path / "log"

    def one(name: str) -> None:
        with client(name, wait=True) as lease:
            lease.change(f"echo {name} in >>{log}; sleep 0.1; echo {name} out >>{log}")

    threads = [threading.Thread(target=one, args=(f"c{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 6
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert all(a[0] == b[0] and (a[1], b[1]) == ("in", "out") for a, b in pairs)


def test_unlock_takes_it_away_once(client, inventory):
    with connect(inventory) as fleet:
        manager = fleet.first_manager()
        assert deploy_lock.peek(manager) is None
        with client("alice") as alice:
            holder = deploy_lock.peek(manager)
            assert holder
            assert holder.who == "alice"
            assert deploy_lock.take_away(manager, holder)
            assert not deploy_lock.take_away(manager, holder)
            with pytest.raises(LockLostError):
                alice.change("true")


def test_swarm_that_does_not_answer_is_named(make_server, make_inventory, tmp_path):
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'rpc error: no leader' >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with connect(make_inventory(make_server(path=tmp_path))) as fleet:
        manager = fleet.first_manager()
        with (
            pytest.raises(deploy_lock.SwarmkeepError, match="rpc error: no leader"),
            deploy_lock.held(manager, Origin("a", ""), "x", wait=True, say=print),
        ):
            pass
        # Nobody who cannot see says that nobody holds it.
        with pytest.raises(deploy_lock.SwarmkeepError, match="rpc error: no leader"):
            deploy_lock.peek(manager)


def test_this_process_lives():
    mark = operator.process()
    assert mark.count(":") >= 2
    assert not operator.has_ended(mark)
    assert not operator.has_ended("")
    assert not operator.has_ended("another-machine/pid:[1]:1:1")
