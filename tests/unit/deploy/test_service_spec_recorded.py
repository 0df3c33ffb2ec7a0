"""What a plan makes of services that plain Docker deployed: nothing to do, however they are spelt.

The services are made up (tests/compose_record/services.py), the answers are real: recorded with
tests/compose_record/record.py from Docker 20.10, and from the client 28 before that engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabfile.deploy import plan
from fabfile.deploy.stacks import Wanted
from fabfile.swarm.state_reading import _service
from tests.compose_record.services import TOP, generate
from tests.unit.clusters import cluster

DATA = Path(__file__).parents[1] / "data"
FILES = {"compose-20.10.jsonl": (9, False), "compose-28.jsonl": (28, True)}


def recorded(name: str) -> tuple[dict[str, str], list[tuple[str, dict[str, Any], dict[str, Any]]]]:
    """The names of networks by id, and (name, compose service, live specification) of each."""
    head, *lines = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    return head["networks"], [(line[0], line[1], line[2]) for line in lines]


ALL = [(networks, *one) for file in FILES for networks, ones in [recorded(file)] for one in ones]


def planned(service: dict[str, Any], name: str, live: Any, networks: Any) -> plan.Plan:
    wanted = Wanted("rec", "app", "image", {**TOP, "services": {name: service}}, (), ())
    there = cluster((_service({"ID": name, "Spec": live}),), networks=networks)
    settings = {"network": "backend", "resolve_image": "never", "prune": False}
    return plan.make(wanted, there, [], **settings)


@pytest.mark.parametrize(("networks", "name", "service", "live"), ALL)
def test_what_docker_made_of_it_is_nothing_to_do(networks, name, service, live):
    (found,) = planned(service, name, live, networks).services
    assert (found.action, found.fields, found.unknown) == ("unchanged", (), ())


@pytest.mark.parametrize("file", FILES)
def test_the_recorded_services_are_those_that_are_made_up_today(file):
    seed, newer = FILES[file]
    _, ones = recorded(file)
    made = json.loads(json.dumps(generate(seed, 200, newer=newer)))
    assert {name: service for name, service, _ in ones}.items() <= made.items()


def turned(value: Any) -> Any:
    """The same with the keys of mappings the other way round."""
    if isinstance(value, dict):
        return {key: turned(item) for key, item in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


def respelt(service: dict[str, Any], draw: st.DataObject) -> dict[str, Any]:
    """The same service in other words."""
    service = turned(service) if draw.draw(st.booleans()) else dict(service)
    for key in ("labels", "sysctls", "environment"):
        value = service.get(key)
        if isinstance(value, list):
            service[key] = dict(item.partition("=")[::2] for item in value)
    for key in ("dns", "dns_search"):
        if isinstance(service.get(key), str):
            service[key] = [service[key]]
    for key in ("cap_add", "cap_drop", "configs", "secrets", "ports"):
        if key in service:
            service[key] = draw.draw(st.permutations(service[key]))
    if service.get("stop_grace_period") == "90s":
        service["stop_grace_period"] = "1m30s"
    if isinstance(service.get("networks"), list):
        service["networks"] = draw.draw(
            st.sampled_from([service["networks"][::-1], dict.fromkeys(service["networks"])])
        )
    return {**service, "x-note": "ignored"}


@given(one=st.sampled_from(ALL), draw=st.data())
def test_other_words_for_the_same_are_nothing_to_do(one, draw):
    networks, name, service, live = one
    assert not planned(respelt(service, draw), name, live, networks).changes


# Docker's own bookkeeping, and what a name stands beside.
NO_SETTINGS = {"ForceUpdate", "Runtime", "SecretID", "ConfigID", "com.docker.stack.image", "Name"}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every number, text and truth value."""
    if isinstance(value, dict):
        pairs = [(key, item) for key, item in value.items() if key not in NO_SETTINGS]
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return [] if value is None else [path]
    return [leaf for key, item in pairs for leaf in leaves(item, (*path, key))]


def altered(value: Any, path: tuple[Any, ...]) -> Any:
    """The same with another value at that path."""
    if path:
        changed = dict(value) if isinstance(value, dict) else list(value)
        changed[path[0]] = altered(value[path[0]], path[1:])
        return changed
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}1"


@given(one=st.sampled_from(ALL), draw=st.data())
def test_any_setting_changed_by_hand_shows(one, draw):
    networks, name, service, live = one
    path = draw.draw(st.sampled_from(leaves(live)))
    assert planned(service, name, altered(live, path), networks).changes
