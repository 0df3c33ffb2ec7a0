"""What counts as converged, what as failed, and what needs more time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabfile.swarm.convergence import Baseline, Progress, away_seconds, baseline, judge
from tests.unit.clusters import NOW, cluster, node, service, spec, task

NOTHING = Baseline(frozenset(), {})


def one(the_service, *tasks, before=NOTHING, **changes) -> Progress:
    (progress,) = judge(cluster((the_service,), tuple(tasks), **changes), "dbstack", before)
    return progress


def test_running_task_of_the_wanted_specification_is_done():
    db = service()
    assert one(db, task(db)).done


@pytest.mark.parametrize("state", ["new", "pending", "assigned", "preparing", "starting", "ready"])
def test_task_on_its_way_is_neither_done_nor_failed(state):
    db = service()
    progress = one(db, task(db, state))
    assert not progress.done
    assert not progress.failure
    assert state in progress.doing


def test_no_task_yet_is_not_done():
    assert not one(service()).done


def test_old_task_still_running_does_not_count_for_the_new_specification():
    # The moment after `docker stack deploy`, before Swarm has set any update status.
    db = service(template=spec("postgres:16"))
    assert not one(db, task(db, spec=spec("postgres:15"))).done


def test_task_that_fits_a_changed_placement_is_kept_and_counts():
    db = service()
    moved = spec() | {"Placement": {"Constraints": ["node.labels.role == db"]}}
    assert one(db, task(db, spec=moved)).done


def test_old_task_on_its_way_out_must_be_gone():
    app = service(replicas=2)
    tasks = [task(app, slot=1), task(app, slot=2), task(app, slot=3, id="third")]
    assert not one(app, *tasks).done
    assert one(app, *tasks[:2]).done


def test_update_in_progress_is_not_done_though_the_task_runs():
    db = service(update="updating")
    assert not one(db, task(db)).done
    assert one(replace(db, update={"State": "completed"}), task(db)).done


@pytest.mark.parametrize("state", ["paused", "rollback_paused", "rollback_completed"])
def test_paused_and_rolled_back_are_failures_though_the_old_task_runs(state):
    db = service(update=state)
    bad = task(db, "failed", id="bad", error="task: non-zero exit (1)")
    progress = one(db, task(db), bad)
    assert progress.failure
    assert "because" in progress.failure
    assert progress.culprit is bad


def test_rollback_in_progress_is_waited_for():
    db = service(update="rollback_started")
    progress = one(db, task(db))
    assert not progress.failure
    assert not progress.done


def test_rollback_that_finds_no_node_is_not_waited_for():
    # A node that is drained while its service is updated: seen with 20.10.
    db = service(update="rollback_started")
    error = "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    progress = one(db, task(db, "pending", error=error, desired="ready"))
    assert "rolling back, and no suitable node" in progress.failure


def test_rollback_of_an_earlier_deploy_is_not_blamed_on_this_one():
    db = service(update="rollback_completed")
    before = baseline(cluster((db,), (task(db),)))
    assert one(db, task(db), before=before).done


def test_three_failures_are_a_failed_deploy_two_are_not():
    db = service()
    bad = [
        task(db, "failed", id=f"bad{i}", created=f"2026-11-22T09:00:0{i}Z", error=f"error {i}")
        for i in range(3)
    ]
    assert not one(db, *bad[:2]).failure
    progress = one(db, *bad)
    assert "failed 3 times" in progress.failure
    assert progress.culprit is bad[2]


def test_failures_before_the_deploy_do_not_count():
    db = service()
    bad = tuple(task(db, "failed", id=f"bad{i}") for i in range(3))
    before = baseline(cluster((db,), bad))
    assert one(db, task(db), *bad, before=before).done


def test_rejected_tasks_count_as_failures():
    db = service()
    bad = [task(db, "rejected", id=f"bad{i}", error="No such image: x") for i in range(3)]
    assert one(db, *bad).failure


@pytest.mark.parametrize("desired", ["running", "ready"])
def test_no_suitable_node_fails_only_after_a_while(desired):
    db = service()
    error = "no suitable node (1 node not available)"
    stuck = task(db, "pending", error=error, created=NOW, desired=desired)
    assert not one(db, stuck).failure
    assert "no suitable node" in one(db, replace(stuck, created="2026-11-22T09:59:00Z")).failure


def test_without_health_check_a_task_must_run_for_a_moment():
    db = service(template=spec(health=False))
    fresh = task(db, since="2026-11-22T09:59:58Z")
    assert not one(db, fresh).done
    assert one(db, replace(fresh, since="2026-11-22T09:59:54Z")).done


def test_global_service_wants_a_task_on_each_ready_node():
    db = service(replicas=None)
    nodes = (node("m1"), node("w1"), node("w2", state="down"), node("w3", availability="drain"))
    tasks = [task(db, id=f"t{i}") for i in range(2)]
    assert not one(db, tasks[0], nodes=nodes).done
    assert one(db, *tasks, nodes=nodes).done


def test_what_docker_shows_of_defaults_on_services_only_is_no_difference():
    """As Docker 20.10 showed a service without a restart policy, and its task."""
    container = {
        "Image": "app:1",
        "Command": ["sleep", "86400"],
        "Privileges": {"CredentialSpec": None, "SELinuxContext": None},
        "Isolation": "default",
    }
    network = [{"Target": "7oyv7f4q2on1x0xgka4kyrhfg", "Aliases": ["helper"]}]
    rest = {"Resources": {}, "Placement": {}, "Networks": network, "ForceUpdate": 0}
    shown = {
        **rest,
        "ContainerSpec": {**container, "StopGracePeriod": 10_000_000_000, "DNSConfig": {}},
        "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0},
        "Runtime": "container",
    }
    helper = service("dbstack_helper", template=shown)
    assert one(helper, task(helper, spec={**rest, "ContainerSpec": container})).done
    # What is no default makes another task.
    once = {**shown, "RestartPolicy": {"Condition": "none", "Delay": 5_000_000_000}}
    helper = service("dbstack_helper", template=once)
    assert not one(helper, task(helper, spec={**rest, "ContainerSpec": container})).done


@pytest.mark.parametrize(
    ("constraint", "wanted"),
    [
        ("node.labels.role == app", 1),
        ("node.labels.role != app", 2),
        ("node.hostname==db1", 1),
        ("node.labels.zone == north", 0),
        ("node.platform.os == linux", 3),
    ],
)
def test_global_service_wants_a_task_on_each_node_that_its_constraints_allow(constraint, wanted):
    nodes = (node("db1", role="db"), node("app1", role="app"), node("m1"))
    template = spec() | {"Placement": {"Constraints": [constraint]}}
    each = service(template=template, replicas=None)
    assert one(each, nodes=nodes).wanted == wanted


def test_how_long_no_task_ran():
    db = service()
    old = task(db, id="old", since="2026-11-22T09:00:00.5Z")
    ended = replace(old, state="shutdown", desired="shutdown", since="2026-11-22T10:00:00.5Z")
    new = task(db, id="new", since="2026-11-22T10:00:03.750000001Z")
    before = cluster((db,), (old,))
    assert away_seconds(before, cluster((db,), (new, ended)), db) == 3.25
    # The new one was there first, the old one was left alone, or nothing ran before.
    earlier = replace(new, since="2026-11-22T10:00:00Z")
    assert away_seconds(before, cluster((db,), (earlier, ended)), db) is None
    assert away_seconds(before, before, db) is None
    assert away_seconds(cluster((db,)), cluster((db,), (new,)), db) is None
    # Of several, others answered.
    two = service(replicas=2)
    assert away_seconds(before, cluster((two,), (new, ended)), two) is None
