"""One database in another's place: what is so, and what is said, when something goes wrong."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.restore import app_pause, app_resumed, database_swap
from fabfile.restore.app_pause import StillDownError
from fabfile.ssh.remote_command import Result
from fabfile.swarm.deploy_lock import LockLostError
from fabfile.swarm.state import Cluster
from tests.unit import clusters

LIVE, OTHER, KEPT = "nocodb", "nocodb_restored", "nocodb_replaced"
POSTGRES = SimpleNamespace(database=LIVE, service="dbstack_root_db", user="nocodb")
GONE = UnreachableError("db1: the connection was lost")


@dataclass
class World:
    """A server with two databases, an app, and what goes wrong with them."""

    names: set[str] = field(default_factory=lambda: {LIVE, OTHER})
    replicas: int | None = 1
    label: str = ""
    swap: list[SwarmkeepError | None] = field(default_factory=list)
    """What each swap ends with, the first one first."""
    loses_answer: bool = False
    """Whether a swap that fails has happened all the same."""
    asking: SwarmkeepError | None = None
    starting: SwarmkeepError | None = None
    app: list[SwarmkeepError | None] = field(default_factory=list)
    """What each question to the app ends with."""
    lock: SwarmkeepError | None = None
    starts_as: int = 1
    said: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    asked_app: int = 0

    def cluster(self, manager: Any = None, seen: Cluster | None = None) -> Cluster:
        service = clusters.service("appstack_nocodb", self.replicas)
        labels = {app_pause.LABEL: self.label} if self.label else {}
        service = replace(service, spec=service.spec | {"Labels": labels})
        slots = range(1, (self.replicas or 0) + 1)
        tasks = tuple(clusters.task(service, slot=n, node_id="id-app1") for n in slots)
        return clusters.cluster((service,), tasks)

    def run(self, host: Any, line: str, say: Any) -> None:
        words = line.split()
        database, other, kept = (
            words[words.index(flag) + 1] for flag in ("--database", "--with", "--keep-as")
        )
        error = self.swap.pop(0) if self.swap else None
        if error is None or self.loses_answer:
            self.names = self.names - {database, other} | {database, kept}
        if error:
            raise error
        say(f"swapped: {other} is {database} now")

    @contextmanager
    def stopped(self, manager: Any, service: str, change: Any, deploy: str) -> Any:
        assert deploy == "inv deploy-app"
        self.replicas = 0
        try:
            yield SimpleNamespace(check=lambda: None)
        finally:
            self.replicas = self.starts_as
        if self.starting:
            raise self.starting

    def await_works(self, fleet: Any, role: str, cluster: Any) -> str:
        assert role == "app"
        self.asked_app += 1
        error = self.app.pop(0) if self.app else None
        if error:
            raise error
        return "NocoDB answers from its database"

    def check(self, command: Any, what: str, *, timeout: float) -> Result:
        if self.asking:
            raise self.asking
        return Result("db1", 0, "\n".join(sorted(self.names)) + "\n", "")

    def change(self, script: str) -> Result:
        if self.lock:
            raise self.lock
        return Result("manager1", 0, "", "")

    def exchange(self, database: str = LIVE) -> None:
        host = SimpleNamespace(name="db1", entry="db1", check=self.check)
        inventory = SimpleNamespace(
            postgres=POSTGRES,
            app=SimpleNamespace(stack="appstack"),
            deploy_timeout=0.2,
            app_of=lambda name: "app" if name == LIVE else "",
            app_service=lambda role: "appstack_nocodb",
            other_app=lambda role: None,
        )
        database_swap.Exchange(
            SimpleNamespace(inventory=inventory, host=lambda entry: host),  # type: ignore[arg-type]
            SimpleNamespace(manager="manager1", change=self.change),  # type: ignore[arg-type]
            host,  # type: ignore[arg-type]
            self.said.append,
            self.noted.append,
        ).run(database, OTHER, KEPT)

    def fails(self, kind: type[SwarmkeepError] = SwarmkeepError) -> SwarmkeepError:
        with pytest.raises(kind) as caught:
            self.exchange()
        assert type(caught.value) is kind
        assert caught.value.hint
        return caught.value

    @property
    def swapped(self) -> bool:
        return KEPT in self.names


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(database_swap, "observe", world.cluster)
    monkeypatch.setattr(app_resumed, "observe", world.cluster)
    monkeypatch.setattr(app_resumed, "await_works", world.await_works)
    monkeypatch.setattr(app_resumed, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(database_swap.restore_script, "run", world.run)
    monkeypatch.setattr(app_pause, "stopped", world.stopped)
    return world


def test_without_trouble(world):
    world.exchange()
    assert world.swapped
    assert world.said[0] == f"{OTHER} is to be {LIVE}; the one before will be kept as {KEPT}"
    assert world.said[-1] == "appstack: NocoDB answers from its database"


def test_another_database_than_the_apps_leaves_the_app_alone(world):
    world.names = {"second", OTHER}
    world.exchange("second")
    assert world.asked_app == 0
    assert not any("stopping" in line for line in world.said)


class TestNamesNotChanged:
    @pytest.mark.parametrize("error", [SwarmkeepError("refused", hint="mend"), GONE])
    def test_other_one_is_still_there(self, world, error):
        world.swap = [error]
        caught = world.fails(type(error))
        assert caught.message == error.message
        assert caught.hint.endswith(f"{OTHER} is still there: inv backup.swap {OTHER}")
        assert (world.swapped, world.replicas) == (False, 1)

    def test_of_another_database_the_advice_names_it(self, world):
        world.names, world.swap = {"second", OTHER}, [SwarmkeepError("refused")]
        with pytest.raises(SwarmkeepError) as caught:
            world.exchange("second")
        assert caught.value.hint.endswith(f"inv backup.swap {OTHER} --database second")

    def test_lock_that_was_lost(self, world):
        world.lock = LockLostError("not ours", hint="see")
        assert "still there" in world.fails(LockLostError).hint
        assert not world.swapped


class TestAnswerLost:
    """The connection, or the script, was gone when the names had been changed."""

    @pytest.fixture(autouse=True)
    def lost(self, world):
        world.swap, world.loses_answer = [GONE], True

    def test_goes_on_to_the_app(self, world):
        world.exchange()
        assert world.swapped
        assert f"warning: {GONE.message}" in world.said
        assert world.noted == [
            f"it was done all the same: {OTHER} is {LIVE} now; the one before is kept as {KEPT}"
        ]
        assert world.asked_app == 1

    def test_and_back_if_the_app_does_not_answer(self, world):
        world.app, world.loses_answer = [SwarmkeepError("HTTP 500"), None], True
        caught = world.fails()
        assert "HTTP 500; the databases were swapped back: all is as it was" in caught.message
        assert world.names == {LIVE, OTHER}
        assert world.asked_app == 2

    def test_where_nobody_can_be_asked_it_says_how_to_look(self, world):
        world.asking = UnreachableError("db1: no route")
        caught = world.fails(UnreachableError)
        assert caught.message == (
            f"{GONE.message}; which databases there are now could not be seen (db1: no route)"
        )
        assert "look on db1: docker exec" in caught.hint
        assert f"if {KEPT} is there, {OTHER} is {LIVE} now" in caught.hint

    def test_neither_is_there(self, world):
        world.loses_answer, world.names = False, {"postgres"}
        caught = world.fails(UnreachableError)
        assert f"there is neither a {OTHER} nor a {LIVE}" in caught.message
        assert "look on db1" in caught.hint


class TestApp:
    def test_that_stays_down_is_told_with_whose_name_is_whose(self, world):
        world.starting = StillDownError("it is stopped", hint="on a manager: up")
        caught = world.fails(StillDownError)
        assert caught.message == (
            f"it is stopped; {OTHER} is {LIVE} now; the one before is kept as {KEPT}"
        )
        assert caught.hint.startswith("on a manager: up")

    def test_that_nobody_brings_back_is_no_success(self, world):
        """The guard says that all is well, and the service still wants no task."""
        world.starts_as = 0
        caught = world.fails()
        assert "appstack_nocodb: is scaled to 0, it was 1" in caught.message
        assert "going back failed" in caught.message
        assert world.asked_app == 0

    def test_that_a_guard_of_a_lost_client_has_stopped_is_wanted_as_it_was(self, world):
        world.replicas, world.label, world.starts_as = 0, "2", 2
        world.exchange()
        assert world.swapped
        assert "appstack: NocoDB answers from its database" in world.said

    def test_that_was_scaled_to_none_by_hand_is_left_so(self, world):
        world.replicas = 0
        world.exchange()
        assert (world.swapped, world.replicas, world.asked_app) == (True, 0, 0)

    def test_that_does_not_answer_on_either(self, world):
        world.app = [SwarmkeepError("HTTP 500"), SwarmkeepError("HTTP 502", hint="the log")]
        caught = world.fails()
        assert caught.message == "HTTP 500; and going back failed: HTTP 502"
        assert caught.hint.endswith("the log")
        assert not world.swapped

    def test_where_going_back_fails_the_advice_is_of_what_is_there(self, world):
        world.app, world.swap = [SwarmkeepError("HTTP 500")], [None, SwarmkeepError("busy")]
        caught = world.fails()
        assert caught.message == "HTTP 500; and going back failed: busy"
        assert f"inv backup.swap {KEPT}" in caught.hint
        assert world.swapped

    def test_manager_that_is_lost_while_waiting(self, world):
        world.app = [UnreachableError("manager1: gone")]
        caught = world.fails()
        assert "could not be seen: manager1: gone" in caught.message
        assert f"to go back: inv backup.swap {KEPT}" in caught.hint


def test_a_script_that_goes_on_without_its_connection_is_waited_for(tmp_path):
    looked = tmp_path / "looked"
    for name, text in {
        # Still there the first two times.
        "pgrep": f'#!/bin/sh\necho "$@" >>{looked}\n[ $(wc -l <{looked}) -lt 3 ]\n',
        "docker": f"#!/bin/sh\nwc -l <{looked} >{tmp_path}/asked\n",
        "sleep": "#!/bin/sh\n",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = database_swap.names_command(POSTGRES).script  # type: ignore[arg-type]
    subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (tmp_path / "asked").read_text().strip() == "3"
    assert "[r]estore-pg.sh swap" in looked.read_text()


def test_the_server_is_asked_without_a_secret_in_the_arguments(tmp_path):
    """The real script, with a docker that runs it here and a psql that shows what it gets."""
    (tmp_path / "docker").write_text(
        '#!/bin/sh\n[ "$1" = ps ] && echo c1 && exit\n'
        'while [ "$1" != c1 ]; do shift; done; shift; exec "$@"\n'
    )
    (tmp_path / "psql").write_text('#!/bin/sh\necho "$PGPASSWORD $*"\nwc -l\n')
    (tmp_path / "password").write_text("geheim")
    for name in ("docker", "psql"):
        (tmp_path / name).chmod(0o755)
    command = database_swap.names_command(POSTGRES)  # type: ignore[arg-type]
    done = subprocess.run(
        ["sh", "-c", command.script],
        input=command.stdin,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "POSTGRES_PASSWORD_FILE": str(tmp_path / "password"),
        },
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["geheim", "-XAtqw", "-v", "ON_ERROR_STOP=1", "7"]
    assert "SELECT datname FROM pg_database" in command.stdin.decode()
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    done = subprocess.run(
        ["sh", "-c", command.script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"dbstack_root_db has no running container here" in done.stderr
