"""A deploy never brings up an empty database, or another one, where there was a full one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fabfile.base.errors import CONFIG, ConfigError
from fabfile.deploy import observation, preflight_data, stacks
from fabfile.deploy.preflight_data import Found
from fabfile.deploy.service_spec import specification
from fabfile.swarm.data_volume import DataFolder
from fabfile.swarm.postgres import Names
from tests.unit.clusters import cluster, service, task
from tests.unit.deploy.test_stacks import Vault, inventory

FULL = DataFolder("pgdata", 15, "7")
OLD = {"images": {"postgres": "postgres:15-bookworm"}}


def live(tmp_path, role="db", **changes):
    """A stack as Swarm runs it, made from a hosts file."""
    hosts = inventory(tmp_path, **changes)
    wanted = (stacks.database if role == "db" else stacks.application)(hosts, Vault())
    (key,) = wanted.compose["services"]
    spec, _ = specification(wanted.compose, key, wanted.name)
    one = service(f"{wanted.name}_{key}", template=spec["TaskTemplate"])
    return replace(one, stack=wanted.name, image=spec["TaskTemplate"]["ContainerSpec"]["Image"])


def check(tmp_path, *services, folders=(FULL,), recorded="", names=None, leave=False, **changes):
    hosts = inventory(tmp_path, **{**OLD, **changes})
    wanted = stacks.database(hosts, Vault())
    found = Found(tuple(folders), recorded, names)
    seen = cluster(tuple(services))
    return preflight_data.check_database(hosts, wanted, seen, found, leave_data=leave)


def refused(*args, **changes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(*args, **changes)
    assert caught.value.exit_code == CONFIG
    assert caught.value.hint
    return caught.value


def test_the_same_place_is_fine_and_its_identifier_known(tmp_path):
    assert check(tmp_path, live(tmp_path, **OLD)) == "7"
    assert check(tmp_path, live(tmp_path, **OLD), recorded="7") == "7"


def test_a_first_deploy_has_nothing_to_leave_behind(tmp_path):
    assert check(tmp_path, folders=()) == ""


def test_a_volume_that_outlived_its_stack_is_taken_up_again(tmp_path):
    assert check(tmp_path, recorded="7") == "7"


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("major", [16, 17, 18])
def test_another_major_is_refused_whichever_place_it_has(tmp_path, major, running):
    """Seen: 15 -> 18 made a new cluster in the old volume, and the deploy said "converged"."""
    services = [live(tmp_path, **OLD)] if running else []
    error = refused(tmp_path, *services, images={"postgres": f"postgres:{major}-bookworm"})
    assert "15" in error.message
    assert str(major) in error.message
    assert "inv upgrade-db (docs/upgrade.md)" in error.hint
    if major == 18:
        assert "pgdata" in error.message
        assert "18/docker in volume dbstack_pgdata" in error.message


def test_an_older_major_is_refused(tmp_path):
    error = refused(tmp_path, folders=[DataFolder("pgdata", 17, "7")])
    assert "is of PostgreSQL 17; images.postgres wants 15" in error.message


def test_another_volume_is_refused_with_both_places(tmp_path):
    old = live(tmp_path, **OLD)
    mounts = old.template["ContainerSpec"]["Mounts"]
    mounts[0] = {**mounts[0], "Source": "elsewhere"}
    error = refused(tmp_path, old, folders=())
    assert "its data is in pgdata in volume elsewhere" in error.message
    assert "pgdata in volume dbstack_pgdata" in error.message
    assert "--leave-data" in error.hint
    assert check(tmp_path, old, folders=(), leave=True) == ""


def test_a_service_that_never_made_a_cluster_may_move(tmp_path):
    """Its files are elsewhere in the same volume, and there is nothing where it looks now."""
    old = live(tmp_path, **OLD)
    env = old.template["ContainerSpec"]["Env"]
    old.template["ContainerSpec"]["Env"] = [
        "PGDATA=/var/lib/postgresql/data/other" if one.startswith("PGDATA=") else one for one in env
    ]
    assert check(tmp_path, old) == "7"


def test_a_renamed_service_would_be_a_second_server_on_the_same_files(tmp_path):
    error = refused(tmp_path, live(tmp_path, **OLD), db_service_name="dbstack_pg")
    assert "dbstack_root_db" in error.message
    assert "dbstack_pg" in error.message
    assert "db_service_name" in error.hint


@pytest.mark.parametrize(
    ("key", "value", "what"), [("pg_db", "other", "database"), ("pg_user", "someone", "role")]
)
def test_a_database_or_role_that_is_not_there_is_refused(tmp_path, key, value, what):
    running = live(tmp_path, **OLD)
    there = Names(frozenset({"nocodb"}), frozenset({"nocodb"}))
    error = refused(tmp_path, running, names=there, **{key: value})
    assert f"{key}: the running PostgreSQL has no {what} '{value}'" in error.message
    assert f"set {key} back to nocodb" in error.hint
    error = refused(tmp_path, running, names=None, **{key: value})
    assert (
        f"{key}: PostgreSQL does not answer, so whether it has a {what} '{value}'" in error.message
    )
    assert f"set {key} back to nocodb" in error.hint
    more = Names(there.databases | {"other"}, there.roles | {"someone"})
    assert check(tmp_path, running, names=more, **{key: value}) == "7"


def test_a_volume_that_is_gone_is_no_reason_to_begin_anew(tmp_path):
    for services in ([], [live(tmp_path, **OLD)]):
        error = refused(tmp_path, *services, folders=(), recorded="7")
        assert "is no longer in pgdata in volume dbstack_pgdata" in error.message
        assert "inv recover" in error.hint
    assert check(tmp_path, folders=(), recorded="7", leave=True) == ""


def test_a_volume_with_another_cluster_is_refused(tmp_path):
    error = refused(tmp_path, recorded="8")
    assert "another PostgreSQL cluster (7)" in error.message
    assert check(tmp_path, recorded="8", leave=True) == "7"


def test_files_of_another_major_cannot_be_left_behind_at_the_same_place(tmp_path):
    assert (
        "is of PostgreSQL 17"
        in refused(tmp_path, folders=[DataFolder("pgdata", 17, "7")], leave=True).message
    )


def app(tmp_path, *services, leave=False, **changes):
    hosts = inventory(tmp_path, **changes)
    wanted = stacks.application(hosts, Vault())
    preflight_data.check_app(hosts, wanted, cluster(tuple(services)), leave_data=leave)


def test_nocodb_does_not_go_over_to_another_database_or_leave_its_files(tmp_path):
    there = live(tmp_path), live(tmp_path, "app")
    app(tmp_path, *there)
    with pytest.raises(ConfigError, match="NocoDB would start with an empty database") as caught:
        app(tmp_path, *there, pg_db="other")
    assert "set pg_db back to nocodb" in caught.value.hint
    (mount,) = there[1].template["ContainerSpec"]["Mounts"]
    mount["Source"] = "older_data"
    with pytest.raises(ConfigError, match="/usr/app/data in older_data, which would be left"):
        app(tmp_path, *there)
    app(tmp_path, *there, leave=True)


@pytest.mark.parametrize("role", ["db", "app"])
def test_one_stack_alone_is_not_taken_to_another_network(tmp_path, role):
    there = live(tmp_path), live(tmp_path, "app")
    hosts = inventory(tmp_path, network="other")
    wanted = (stacks.database if role == "db" else stacks.application)(hosts, Vault())
    seen = cluster(there)
    with pytest.raises(ConfigError, match="by the network backend; with other it would no longer"):
        preflight_data.check_networks(hosts, wanted, seen, together=False)
    preflight_data.check_networks(hosts, wanted, seen, together=True)
    same = inventory(tmp_path)
    for make in (stacks.database, stacks.application):
        preflight_data.check_networks(same, make(same, Vault()), seen, together=False)


THERE = Names(frozenset({"nocodb"}), frozenset({"nocodb"}))


@pytest.mark.parametrize(
    ("states", "answers"),
    [
        (["starting", "starting", "running"], [None, None, THERE]),
        (["running", "shutdown", "starting", "running"], [None, None, None, THERE]),
        (["running", "running"], [None]),
    ],
    ids=["starts", "is just being stopped", "is deaf"],
)
def test_a_postgresql_that_restarts_is_waited_for(monkeypatch, tmp_path, states, answers):
    running = live(tmp_path, **OLD)
    # Each look has the manager's time of its own: that alone is no change.
    looks = iter(
        cluster((running,), (task(running, state),), now=f"2026-11-22T10:00:0{second}Z")
        for second, state in enumerate(states)
    )
    left = list(answers)
    monkeypatch.setattr(observation, "POLL_SECONDS", 0)
    monkeypatch.setattr(observation.postgres, "names", lambda *args: left.pop(0))
    monkeypatch.setattr(observation, "observe", lambda manager: next(looks))
    fleet: Any = SimpleNamespace(inventory=inventory(tmp_path, **OLD))
    wanted = stacks.database(fleet.inventory, Vault())
    seen: Any = observation.Look(None, next(looks), {})  # type: ignore[arg-type]
    assert observation._with_names(fleet, seen, wanted).names is answers[-1]
    assert left == []
