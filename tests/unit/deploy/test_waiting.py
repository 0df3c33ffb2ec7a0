"""Waiting looks at what moves, and returns nothing that it has not seen whole."""

from __future__ import annotations

import pytest

from fabfile.deploy import waiting
from fabfile.deploy.stacks import Wanted
from fabfile.swarm.convergence import Baseline
from fabfile.swarm.state import Cluster
from tests.unit.clusters import cluster, service, task

DB = service()
WANTED = Wanted("dbstack", "db", "postgres:15", {"services": {"root_db": {}}}, (), ())
STARTING = cluster((DB,), (task(DB, "starting"),))
DONE = cluster((DB,), (task(DB),))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)


def wait(*looks: Cluster) -> tuple[Cluster, list[Cluster | None]]:
    """What is returned, and what each look was given."""
    given: list[Cluster | None] = []
    coming = iter(looks)

    def look(seen: Cluster | None = None) -> Cluster:
        given.append(seen)
        return next(coming)

    after = waiting.await_stack(
        look,
        WANTED,
        Baseline(frozenset(), {}),
        timeout=60,
        say=lambda line: None,
        logs=lambda task: "",
    )
    return after, given


def test_the_first_look_and_the_one_that_is_returned_are_whole():
    later = cluster((DB,), (task(DB, "starting", id="other"),))
    whole = cluster((DB,), (task(DB),), secrets=())
    after, given = wait(STARTING, later, DONE, whole)
    assert after is whole
    assert given == [None, STARTING, later, None]


def test_converged_at_the_first_look_is_not_asked_twice():
    after, given = wait(DONE)
    assert after is DONE
    assert given == [None]


def test_what_was_converged_and_is_not_when_seen_whole_is_waited_for_again():
    after, given = wait(STARTING, DONE, STARTING, DONE, DONE)
    assert after is DONE
    assert given == [None, STARTING, None, STARTING, None]
