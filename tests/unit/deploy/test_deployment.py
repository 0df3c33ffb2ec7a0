"""How a deploy ends: always on record, taken back where it fails, never against the lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.deploy import deployment, observation, stacks, waiting
from fabfile.deploy.deployment import Deployment
from fabfile.deploy.finish_script import Options
from fabfile.deploy.observation import Look
from fabfile.deploy.plan import Plan, ServicePlan
from fabfile.deploy.preflight import Allowed
from fabfile.ssh.remote_command import Command, Result
from fabfile.swarm import deploy_lock, postgres
from fabfile.swarm.deploy_lock import LockLostError
from fabfile.swarm.operator import Origin
from fabfile.swarm.placement import LabelChange
from fabfile.swarm.state import Cluster, Service
from tests.unit.clusters import cluster, node, service, spec, task
from tests.unit.deploy.test_stacks import Vault, inventory

NAME = "dbstack_root_db"
OLD, NEW = service(template=spec("postgres:15")), service(template=spec("postgres:16"))
UPDATE = ServicePlan(NAME, "update", restarts=True)
MOVE = (
    LabelChange("app1", {"role": "db", "swarmkeep.pgdata.dbstack": "true"}),
    LabelChange("db1", {}, ("swarmkeep.pgdata.dbstack",), loses="db"),
)


def running(*services: Service, **changes: Any) -> Cluster:
    return cluster(services, tuple(task(one) for one in services), **changes)


@dataclass
class Swarm:
    """A manager that does what it is told, as far as these tests look."""

    now: Cluster
    scripts: list[str] = field(default_factory=list)
    """Guarded changes, in their order."""
    ended: list[str] = field(default_factory=list)
    """What was run with the lock's end."""
    lost: bool = False
    """Whether somebody else has the lock."""
    deployed: Callable[[], Result] = lambda: Result("manager1", 0, "", "")
    waited: Callable[[], None] = lambda: None
    verified: Callable[[], None] = lambda: None
    identifier: str = "7"
    """The cluster that PostgreSQL comes up with."""
    said: list[str] = field(default_factory=list)

    def change(self, script: str, stdin: bytes = b"") -> Result:
        if self.lost:
            raise LockLostError("manager1: the deploy lock is no longer ours", hint="look")
        self.scripts.append(script)
        if "docker stack deploy" in script:
            self.now = replace(self.now, services=(NEW,))
            return self.deployed()
        if "docker service rollback" in script:
            self.now = running(OLD, nodes=self.now.nodes)
        return Result("manager1", 0, "kept\n", "")

    def finish(self, script: str, stdin: bytes = b"") -> Result:
        result = self.change(script, stdin)
        self.ended.append(script)
        return result

    def release(self, script: str = "") -> Result:
        self.ended.append(script)
        return Result("manager1", 0, "", "")

    def wait(self) -> Cluster:
        self.waited()
        return self.now

    def verify(self, _after: Cluster) -> None:
        self.verified()


@pytest.fixture
def run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a deploy of the database on a Swarm, with a plan."""
    hosts = inventory(tmp_path)
    wanted = stacks.database(hosts, Vault())
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)
    monkeypatch.setattr(waiting, "ROLLBACK_SECONDS", 0.05)

    def go(swarm: Swarm, *services: ServicePlan, labels: Any = (), **options: Any) -> Any:
        before = swarm.now
        manager = SimpleNamespace(name="manager1", run=lambda command: Result("m", 0, "", ""))
        lease = SimpleNamespace(
            manager=manager,
            output={},
            change=swarm.change,
            finish=swarm.finish,
            release=swarm.release,
        )

        class Held:
            def __init__(self, *args: Any, **kwargs: Any) -> None: ...

            def __enter__(self) -> Any:
                return lease

            def __exit__(self, *error: object) -> None: ...

        plan = Plan("dbstack", "db", tuple(labels), "", (), services or (UPDATE,))
        monkeypatch.setattr(deploy_lock, "held", Held)
        monkeypatch.setattr(deployment, "make_plan", lambda *args, **rest: plan)
        monkeypatch.setattr(deployment, "parse_sections", lambda *args: before)
        monkeypatch.setattr(deployment, "observe", lambda manager, seen=None: swarm.now)
        monkeypatch.setattr(deployment, "await_stack", lambda *args, **rest: swarm.wait())
        monkeypatch.setattr(deployment, "lacking_image", lambda *args: [])
        monkeypatch.setattr(postgres, "system_identifier", lambda *args: swarm.identifier)
        return Deployment(
            SimpleNamespace(inventory=hosts, dry=False),  # type: ignore[arg-type]
            wanted,
            Options("deploy-db", Origin("ann@desk", "abc"), **options),
            say=swarm.said.append,
            show=lambda plan: None,
            confirm=lambda plan: None,
            verify=swarm.verify,
        ).run(Look(manager, before, {"db": ()}))  # type: ignore[arg-type]

    return go


def fails(error: BaseException) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it


def test_success_is_kept_as_a_release_behind_the_locks_guard(run):
    swarm = Swarm(running(OLD))
    assert run(swarm).release == 1
    assert len(swarm.ended) == 1
    assert "swarmkeep.number=1" in swarm.ended[0]
    assert '"outcome": "ok"' in swarm.ended[0]


def test_whoever_lost_the_lock_while_waiting_keeps_no_release_and_says_so(run):
    swarm = Swarm(running(OLD))

    def lose() -> None:
        swarm.lost = True

    swarm.waited = lose
    with pytest.raises(LockLostError, match="no longer ours"):
        run(swarm)
    # The line on record is no change, and is all that was written.
    (line,) = swarm.ended
    assert '"outcome": "failed"' in line
    assert "docker" not in line


def test_lock_lost_before_the_change(run):
    swarm = Swarm(running(OLD), lost=True)
    with pytest.raises(LockLostError):
        run(swarm)
    assert swarm.scripts == []
    assert "no longer ours" in swarm.ended[0]


def test_stack_deploy_that_fails_half_way_is_taken_back(run):
    refused = Result("manager1", 1, "docker stack deploy dbstack\n", "port 5432 is in use")
    swarm = Swarm(running(OLD), deployed=lambda: refused)
    with pytest.raises(SwarmkeepError, match="docker stack deploy dbstack failed: port 5432"):
        run(swarm)
    assert f"docker service rollback --detach {NAME}" in swarm.scripts
    assert f"{NAME}: rolling back" in swarm.said
    assert '"outcome": "failed"' in swarm.ended[-1]


def test_new_service_that_never_worked_is_removed_again(run):
    swarm = Swarm(running(), waited=fails(SwarmkeepError("it crashes")))
    with pytest.raises(SwarmkeepError, match="it crashes"):
        run(swarm, ServicePlan(NAME, "create"))
    assert f"docker service rm {NAME}" in swarm.scripts


def test_keep_failed_leaves_it(run):
    swarm = Swarm(running(OLD), waited=fails(SwarmkeepError("it crashes")))
    with pytest.raises(SwarmkeepError, match="it crashes"):
        run(swarm, keep_failed=True)
    assert not any("rollback" in script for script in swarm.scripts)


def test_labels_are_put_back_too(run):
    """A database that was to move, and does not start there."""
    moved = (node("m"), node("db1", "db"), node("app1", "db", "dbstack"))
    swarm = Swarm(running(OLD))

    def fail() -> None:
        swarm.now = replace(swarm.now, nodes=moved, services=(OLD,))
        raise SwarmkeepError("not converged after 1 s")

    swarm.waited = fail
    with pytest.raises(SwarmkeepError, match="not converged"):
        run(swarm, labels=MOVE)
    back = [script for script in swarm.scripts if script.startswith("docker node update")]
    assert back == [
        "docker node update --label-add role=app --label-rm swarmkeep.pgdata.dbstack id-app1",
        "docker node update --label-add swarmkeep.pgdata.dbstack=true id-db1",
    ]


def recorded(cluster_id: str) -> Swarm:
    """A Swarm that has a cluster's identifier on record."""
    data = node("db1", "db", "dbstack")
    labels = {**data.labels, "swarmkeep.cluster.dbstack": cluster_id}
    return Swarm(running(OLD, nodes=(node("m"), replace(data, labels=labels))))


def test_another_cluster_than_before_is_a_failure_and_taken_back(run):
    """Seen: PostgreSQL 18 in the volume of 15 made a new cluster, and it was called converged."""
    swarm = recorded("8")
    with pytest.raises(SwarmkeepError) as caught:
        run(swarm)
    assert "came up with another cluster (7) than the one that was there before (8)" in str(
        caught.value
    )
    assert caught.value.exit_code == 1
    assert any("docker service rollback" in script for script in swarm.scripts)
    assert '"outcome": "failed"' in swarm.ended[-1]


def test_another_cluster_may_come_where_that_was_said_and_is_on_record_then(run):
    swarm = recorded("8")
    run(swarm, allowed=Allowed(leave_data=True))
    assert any("--label-add swarmkeep.cluster.dbstack=7" in script for script in swarm.scripts)


def test_the_first_cluster_is_put_on_record(run):
    swarm = Swarm(running(OLD))
    run(swarm)
    assert any("--label-add swarmkeep.cluster.dbstack=7 id-db1" in text for text in swarm.scripts)
    known = recorded("7")
    run(known)
    assert not any("--label-add" in script for script in known.scripts)


def test_that_taking_back_fails_does_not_hide_why_it_had_to_be(run, monkeypatch):
    swarm = Swarm(running(OLD), waited=fails(SwarmkeepError("it crashes", details=("log line",))))
    told = swarm.change

    def change(script: str, stdin: bytes = b"") -> Result:
        if "rollback" in script:
            return Result("manager1", 1, "", "rpc error: no leader")
        return told(script, stdin)

    monkeypatch.setattr(swarm, "change", change)
    with pytest.raises(SwarmkeepError, match="it crashes") as caught:
        run(swarm)
    assert caught.value.details[0] == "log line"
    assert f"rolling back {NAME}: rpc error: no leader" in caught.value.details[1]
    assert "inv status" in caught.value.hint


def test_app_host_that_is_gone_at_the_end_leaves_a_line_on_record(run):
    swarm = Swarm(running(OLD), verified=fails(UnreachableError("app1: no answer")))
    with pytest.raises(UnreachableError, match="app1"):
        run(swarm)
    assert "app1: no answer" in swarm.ended[0]


def test_manager_that_is_gone_is_not_asked_for_anything_more(run):
    swarm = Swarm(running(OLD), waited=fails(UnreachableError("manager1: no answer")))
    with pytest.raises(UnreachableError):
        run(swarm)
    assert len(swarm.scripts) == 1
    assert swarm.ended == []


def test_interrupted_deploy_is_on_record(run):
    swarm = Swarm(running(OLD), waited=fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(swarm)
    assert '"error": "interrupted"' in swarm.ended[0]


def test_a_manager_that_left_the_swarm_while_we_waited_is_gone_and_says_what_to_do():
    """Nothing moves any more there, so everything is asked; its change has not failed."""
    asked: list[str] = []

    def answer(command: Command) -> Result:
        asked.append(command.script)
        said = '\n--swarmkeep info--\n{"Swarm": {"LocalNodeState": "inactive"}}\n'
        return Result("manager1", 0, said, "")

    hosts = SimpleNamespace(every_stack=("dbstack", "appstack"), network="backend")
    manager = SimpleNamespace(run=answer, inventory=hosts)
    with pytest.raises(UnreachableError, match="is not a Swarm manager") as caught:
        observation.watch(manager, cluster())  # type: ignore[arg-type]
    assert len(asked) == 2
    assert "inv swarm.init; then run the same again" in caught.value.hint
