"""Every key of Docker's compose schemas has its treatment, and its version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fabfile.base.errors import ConfigError
from fabfile.deploy import compose_keys
from fabfile.deploy.service_spec import specification

DATA = Path(__file__).parents[1] / "data"
WORDS = {
    "compared": compose_keys.COMPARED,
    "read": compose_keys.READ_HERE,
    "once": compose_keys.MADE_ONCE,
    "ignored": compose_keys.NOTHING,
}
LINES = [
    line.split()
    for line in (DATA / "compose-keys.txt").read_text().splitlines()
    if not line.startswith("#")
]
# A value for each key of a service that is compared; what real Docker makes of them is recorded
# (test_servicespec_recorded.py).
SAMPLES: dict[str, Any] = {
    "cap_add": ["x"], "cap_drop": ["x"], "command": "x", "configs": ["c"],
    "credential_spec": {"config": "c"}, "deploy": {}, "dns": "1.1.1.1", "dns_search": "x",
    "entrypoint": "x", "environment": {"A": 1}, "extra_hosts": ["a:1.1.1.1"],
    "healthcheck": {"test": "x", "interval": "1s", "timeout": "1s", "retries": 1,
                    "start_period": "1s", "start_interval": "1s", "disable": False},
    "hostname": "x", "image": "x", "init": True, "isolation": "default", "labels": ["a"],
    "logging": {"driver": "x", "options": {"a": 1}},
    "networks": {"n": {"aliases": ["x"], "driver_opts": {"a": 1}, "ipv4_address": "x",
                       "ipv6_address": "x"}},
    "oom_score_adj": 5, "ports": [80, "81:82", {"target": 1, "published": 2, "mode": "host",
                                              "protocol": "udp"}],
    "read_only": True, "restart": "on-failure:2",
    "secrets": [{"source": "s", "target": "t", "uid": "1", "gid": "1", "mode": 256}],
    "stdin_open": True, "stop_grace_period": "1s", "stop_signal": "x", "sysctls": {"a": 1},
    "tty": True, "ulimits": {"nofile": 1, "core": {"soft": 1, "hard": 2}}, "user": "x",
    "volumes": ["v:/v", {"type": "bind", "source": "/s", "target": "/t", "consistency": "cached",
                         "bind": {"propagation": "shared"}}],
    "working_dir": "x",
}  # fmt: skip
DEPLOY: dict[str, Any] = {
    "mode": "replicated", "endpoint_mode": "vip", "replicas": 1, "labels": ["a"],
    "update_config": {"parallelism": 1, "delay": "1s", "failure_action": "pause", "monitor": "1s",
                      "max_failure_ratio": 0.5, "order": "start-first"},
    "rollback_config": {"parallelism": 1, "delay": "1s", "failure_action": "pause",
                        "monitor": "1s", "max_failure_ratio": 0.5, "order": "start-first"},
    "resources": {"limits": {"cpus": "1", "memory": "1g", "pids": 1},
                  "reservations": {"cpus": "1", "memory": "1g", "generic_resources": [
                      {"discrete_resource_spec": {"kind": "x", "value": 1}}]}},
    "restart_policy": {"condition": "any", "delay": "1s", "max_attempts": 1, "window": "1s"},
    "placement": {"constraints": ["a==b"], "preferences": [{"spread": "x"}],
                  "max_replicas_per_node": 1},
}  # fmt: skip
AROUND = {
    "networks": {"n": None}, "volumes": {"v": None}, "configs": {"c": {"external": True}},
    "secrets": {"s": {"external": True}},
}  # fmt: skip


@pytest.mark.parametrize(("version", "word", "path"), LINES, ids=str)
def test_every_key_is_treated_as_the_table_says(version, word, path):
    assert compose_keys.treatment(path) == WORDS[word]
    assert f"3.{compose_keys.since(path)}" == version


def keys_of_a_service(word: str) -> set[str]:
    start = "services.*."
    names = {
        path.removeprefix(start) for _, w, path in LINES if path.startswith(start) and w == word
    }
    return {name for name in names if "." not in name and "[" not in name}


def test_no_key_of_a_service_is_beyond_comparison():
    assert set(SAMPLES) == keys_of_a_service("compared")
    assert keys_of_a_service("read") == {"env_file"}
    ignored = dict.fromkeys(keys_of_a_service("ignored"), "x")
    service = {**SAMPLES, **ignored, "deploy": DEPLOY}
    spec, unknown = specification({**AROUND, "services": {"a": service}}, "a", "stack")
    assert unknown == ()
    assert spec["TaskTemplate"]["ContainerSpec"]["Ulimits"] == [
        {"Name": "core", "Hard": 2, "Soft": 1},
        {"Name": "nofile", "Hard": 1, "Soft": 1},
    ]
    plain, _ = specification(
        {**AROUND, "services": {"a": {**SAMPLES, "deploy": DEPLOY}}}, "a", "stack"
    )
    assert plain == spec


@pytest.mark.parametrize("deep", ["deploy", "healthcheck"])
def test_samples_have_every_key_below(deep):
    start = f"services.*.{deep}."
    expected = {path.removeprefix("services.*.") for *_, path in LINES if path.startswith(start)}

    def paths(value: Any, path: str) -> set[str]:
        if isinstance(value, list):
            return set().union(*(paths(item, f"{path}[]") for item in value))
        if not isinstance(value, dict):
            return set()
        below = {f"{path}.{key}" for key in value}
        return below.union(*(paths(item, f"{path}.{key}") for key, item in value.items()))

    found = paths(DEPLOY if deep == "deploy" else SAMPLES[deep], deep)
    assert {path for path in found if not path.startswith("deploy.labels")} == {
        path for path in expected if not path.startswith("deploy.labels.")
    } - {"deploy.labels"}


@pytest.mark.parametrize("path", sorted(compose_keys.MANAGER))
def test_what_only_the_manager_knows_is_a_value_of_a_compared_key(path):
    assert compose_keys.treatment(path) == compose_keys.COMPARED


@pytest.mark.parametrize(
    ("version", "services", "place", "needed"),
    [
        ("3.8", {"a": {"deploy": {"resources": {"limits": {"pids": 5}}}}},
         "services.a.deploy.resources.limits.pids", "3.9"),
        ("3.9", {"a": {"healthcheck": {"start_interval": "1s"}}},
         "services.a.healthcheck.start_interval", "3.12"),
        ("3", {"a": {"ports": [80, {"target": 81}]}}, "services.a.ports[1].target", "3.2"),
        ("3.12", {"a": {"networks": {"driver_opts": {"driver_opts": {"x": "y"}}}}},
         "services.a.networks.driver_opts.driver_opts", "3.13"),
    ],
)  # fmt: skip
def test_key_of_a_later_version_is_refused_with_that_version(version, services, place, needed):
    with pytest.raises(ConfigError) as caught:
        compose_keys.check_version({"version": version, "services": services}, "c.yml")
    assert caught.value.message.startswith(
        f"c.yml: {place} needs version {needed} of compose files"
    )
    assert f'version: "{needed}"' in caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        {"version": "3.9", "services": {"a": {"deploy": {"resources": {"limits": {"pids": 5}}}}}},
        {"version": "3.0", "services": {"a": {"oom_score": 5, "x-note": {"init": 1}}}},
        {"services": {"a": {"init": True}}},
        {"version": "2.4", "services": {"a": {"init": True}}},
        {"version": "3.0", "services": {"init": {"environment": {"init": "1"}}}},
        {"version": "3.0", "services": {"a": {"deploy": {"labels": {"x": None}}}, "b": None}},
    ],
)  # fmt: skip
def test_what_the_version_has_and_what_nobody_knows_is_left_to_docker(data):
    compose_keys.check_version(data, "c.yml")
