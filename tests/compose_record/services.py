"""Compose services made up at random: every key that `docker stack deploy` does not ignore.

The same seed makes the same services. Each uses a key in the forms that Docker's schemas allow.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

IMAGE = "swarmkeep-lab/nothing:1"
Make = Callable[[random.Random], Any]

TOP = {
    "networks": {"default": None, "back": {"driver": "overlay"},
                 "out": {"external": True, "name": "far"}},
    "volumes": {
        "plain": None,
        "named": {"name": "by-name", "labels": ["a=1", "b"]},
        "driven": {"driver": "local",
                   "driver_opts": {"type": "tmpfs", "device": "tmpfs", "size": 5}},
        "ours": {"external": True, "name": "far"},
    },
    "configs": {"far1": {"external": True}, "c1": {"external": True, "name": "far1"},
                "c2": {"external": True, "name": "a-far2"}},
    "secrets": {"s1": {"external": True, "name": "far1"},
                "s2": {"external": True, "name": "a-far2"}},
}  # fmt: skip
"""What surrounds the services; the external things are called far, far1 and a-far2."""


def _some(*values: Any) -> Make:
    return lambda rng: rng.choice(values)


def _few(*values: Any, least: int = 1) -> Make:
    return lambda rng: rng.sample(values, rng.randint(least, len(values)))


def _map(**makes: Make) -> Make:
    """A mapping with some of its keys, at least one."""

    def make(rng: random.Random) -> dict[str, Any]:
        keys = rng.sample(list(makes), rng.randint(1, len(makes)))
        return {key: makes[key](rng) for key in keys}

    return make


_DURATION = _some("0s", "90s", "1m30s", "1.5h", "500ms", "2m", "10s", "1h1m1s1ms")
_PAIRS = _some(
    {"A": "x=y", "B": 2, "C": 1.5, "D": "", "F": 1e21, "G": 0.00001, "H": 3.0},
    ["A=x=y", "B=2", "D=", "A=second"],
    {"k.l": "v w", "zero": 0},
    ["q=1"],
)
_LABELS = _some({"a.b": "1", "n": None, "f": 1.5}, ["a=1", "b", "c="], {"x": 0, "y": "z z"})
_UPDATE = _map(
    parallelism=_some(0, 1, 2),
    delay=_DURATION,
    failure_action=_some("pause", "continue"),
    monitor=_DURATION,
    max_failure_ratio=_some(0, 0.25, 0.1, 1),
    order=_some("start-first", "stop-first"),
)
_FILES = ({"target": "/etc/t", "mode": 0o400}, {"uid": "5", "gid": "7"}, {"target": "plain"}, {})


def _files(first: str, second: str) -> Make:
    def make(rng: random.Random) -> list[Any]:
        long = {"source": second, **rng.choice(_FILES)}
        return rng.choice([[first], [long], [first, long], [long, first]])

    return make


_MODES = ({"mode": "replicated", "replicas": 0}, {"replicas": 2}, {"mode": "global"}, {})
_JOBS = (
    {"mode": "replicated-job", "replicas": 3},
    {"mode": "global-job"},
    {"mode": "replicated-job"},
)


def _restart_policy(rng: random.Random) -> dict[str, Any]:
    make = _map(
        condition=_some("none", "on-failure", "any"),
        delay=_DURATION,
        max_attempts=_some(0, 3),
        window=_DURATION,
    )
    found: dict[str, Any] = make(rng)
    return found


_DEPLOY: dict[str, Make] = {
    "labels": _LABELS,
    "update_config": _UPDATE,
    "rollback_config": _UPDATE,
    "endpoint_mode": _some("vip", "dnsrr", "VIP"),
    "resources": _map(
        limits=_map(cpus=_some("0.5", "2", "1.25"), memory=_some("50M", "1g", "64mb", "1.5gib"),
                    pids=_some(0, 100)),
        reservations=_map(
            cpus=_some("0.25", "1"), memory=_some("20M", "4096k", "8388608"),
            generic_resources=_some(
                [{"discrete_resource_spec": {"kind": "gpu", "value": 2}}],
                [{"discrete_resource_spec": {"kind": "ssd", "value": 1}},
                 {"discrete_resource_spec": {"kind": "gpu", "value": 3}}],
            ),
        ),
    ),
    "restart_policy": _restart_policy,
    "placement": _map(
        constraints=_few("node.role == worker", "node.labels.a==b", "node.hostname != x y"),
        preferences=_some([{"spread": "node.labels.dc"}],
                          [{"spread": "node.labels.dc"}, {"spread": "node.labels.rack"}]),
        max_replicas_per_node=_some(0, 2),
    ),
}  # fmt: skip

_VOLUMES = (
    "/anon", "plain:/p", "named:/n:ro", "driven:/d:nocopy", "ours:/o:rw,nocopy", "/tmp:/b",
    "/tmp:/b2:ro,rslave", "/var/../tmp:/b3:z",
    {"type": "volume", "source": "plain", "target": "/p2", "volume": {"nocopy": True}},
    {"type": "volume", "source": "named", "target": "/n2", "read_only": True},
    {"type": "volume", "target": "/anon2"},
    {"type": "volume", "target": "/anon3", "volume": {"nocopy": True}},
    {"type": "bind", "source": "/tmp", "target": "/b4", "bind": {"propagation": "rshared"}},
    {"type": "bind", "source": "/tmp", "target": "/b5", "consistency": "cached", "read_only": True},
    {"type": "bind", "source": "/tmp", "target": "/b6", "bind": {}},
    {"type": "tmpfs", "target": "/t"}, {"type": "tmpfs", "target": "/t2", "tmpfs": {"size": 0}},
    {"type": "tmpfs", "target": "/t3", "tmpfs": {"size": 1048576}},
    {"type": "tmpfs", "target": "/t4", "tmpfs": {}},
)  # fmt: skip
_PORTS = (
    "80", 81, "8082:82", "8083:83/udp", "9000-9002", "8100-8102:100-102/tcp", "8200-8201:84",
    "127.0.0.1:8085:85", "86/udp", {"target": 87},
    {"target": 88, "published": 8088, "mode": "host"},
    {"target": 89, "protocol": "udp", "published": 8089, "mode": "ingress"},
    {"target": 90, "mode": "host"},
    "8091:91/sctp", "0.0.0.0::92",
)  # fmt: skip

_KEYS: dict[str, Make] = {
    "environment": _PAIRS,
    "labels": _LABELS,
    "sysctls": _some({"net.core.somaxconn": 1024, "net.ipv4.x": "1 2"}, ["net.core.somaxconn=5"]),
    "command": _some(
        "sh -c 'sleep 1'", ["a", "b c", ""], 'echo "a\\nb" \'c\\d\' e\\ f # not this',
        "a#b c", "x ''", 'a"b c"d', [],
    ),
    "entrypoint": _some("/bin/x --flag", ["sh", "-c", "x"], '"quoted word" tail', []),
    "hostname": _some("h1", "{{.Node.Hostname}}"),
    "domainname": _some("example.com"),
    "working_dir": _some("/srv", ""),
    "user": _some("1000:1000", "nobody", ""),
    "init": _some(True, False),
    "tty": _some(True, False),
    "stdin_open": _some(True, False),
    "read_only": _some(True, False),
    "stop_signal": _some("SIGINT", "9"),
    "stop_grace_period": _DURATION,
    "isolation": _some("default"),
    "dns": _some("1.1.1.1", ["8.8.8.8", "1.1.1.1"]),
    "dns_search": _some("example.com", ["b.example.com", "a.example.com"], []),
    "extra_hosts": _some(
        ["b:10.0.0.1", "a:10.0.0.2", "six:::1"], {"b": "10.0.0.1", "a": "::1"}, ["a:10.0.0.2"]
    ),
    "ulimits": _some(
        {"nofile": 65536, "core": 0},
        {"nproc": {"soft": 10, "hard": 20}},
        {"nofile": {"soft": 5, "hard": 5}},
    ),
    "tmpfs": _some("/run", ["/run:size=1m", "/tmp"]),
    "cap_add": _some(["NET_ADMIN", "sys_time", "CAP_CHOWN"], ["ALL", "NET_ADMIN"], ["SYS_TIME"]),
    "cap_drop": _some(["ALL"], ["sys_time", "KILL"], ["CAP_SYS_TIME"], ["all", "kill"]),
    "logging": _some(
        {"driver": "json-file", "options": {"max-size": "10m", "max-file": 3}}, {"driver": "none"},
        {"options": {"tag": None, "env": 1.5}}, {},
    ),
    "healthcheck": lambda rng: rng.choice([
        {"disable": True}, {"test": "exit 0"}, {"test": ["CMD", "x", ""]}, {"test": ["NONE"]},
        {"test": "x", "interval": _DURATION(rng), "timeout": _DURATION(rng), "retries": 0},
        {"start_period": _DURATION(rng), "retries": 4}, {}, {"test": [], "interval": "5s"},
    ]),
    "networks": lambda rng: rng.choice([
        ["back", "out"], {"out": None, "default": {"aliases": ["z", "a"]}}, {"back": {}}, [], {},
        {"default": {"ipv4_address": "10.0.0.9"}},
        ["out", "default", "back"],
    ]),
    "volumes": _few(*_VOLUMES),
    "ports": _few(*_PORTS),
    "configs": _files("c1", "c2"),
    "secrets": _files("s1", "s2"),
    "restart": _some("no", "always", "on-failure", "on-failure:3", "unless-stopped"),
    "credential_spec": _some({"file": "x.json"}, {"registry": "key"}, {"config": "far1"}),
}  # fmt: skip
# `docker stack deploy` takes these and says that it ignores them.
_IGNORED: dict[str, Make] = {
    "build": _some("."), "cgroup_parent": _some("x"), "container_name": _some("x"),
    "depends_on": _some(["other"]), "devices": _some(["/dev/x:/dev/y"]),
    "expose": _some(["80", 81]),
    "external_links": _some(["x"]), "ipc": _some("host"), "links": _some(["x"]),
    "mac_address": _some("02:42:ac:11:65:43"), "network_mode": _some("host"), "pid": _some("host"),
    "privileged": _some(True), "security_opt": _some(["x"]), "shm_size": _some("1g"),
    "userns_mode": _some("host"), "cgroupns_mode": _some("host"),
}  # fmt: skip
# Since 3.10: only a newer client takes them. (An older engine drops oom_score_adj and
# start_interval, so that nothing can be recorded of these with it.)
_NEWER: dict[str, Make] = {
    "networks": _some({"back": {"driver_opts": {"a": "1", "n": 2}, "aliases": ["x"]}}),
}


def generate(seed: int, count: int, *, newer: bool = False) -> dict[str, dict[str, Any]]:
    """Given a seed, return `count` services by name. `newer` has keys of schema 3.10 and later."""
    rng = random.Random(seed)
    return {f"s{number:03}": _service(rng, newer) for number in range(count)}


def _service(rng: random.Random, newer: bool) -> dict[str, Any]:
    makes = {**_KEYS, **(_NEWER if newer else {})}
    keys = rng.sample(list(makes), rng.randint(1, 9))
    if newer:
        keys = list(dict.fromkeys([*keys, rng.choice(list(_NEWER))]))
    service: dict[str, Any] = {"image": IMAGE, **{key: makes[key](rng) for key in keys}}
    for key in rng.sample(list(_IGNORED), rng.choice([0, 0, 1, 3])):
        service[key] = _IGNORED[key](rng)
    deploy = {key: _DEPLOY[key](rng) for key in rng.sample(list(_DEPLOY), rng.randint(0, 3))}
    deploy.update(rng.choice(_MODES + _JOBS if newer else _MODES))
    return _allowed({**service, **({"deploy": deploy} if deploy else {})})


def _allowed(service: dict[str, Any]) -> dict[str, Any]:
    """Without the combinations that Docker or Swarm refuses."""
    deploy = service.get("deploy", {})
    ports = service.get("ports", ())
    if str(deploy.get("endpoint_mode", "")).lower() == "dnsrr":
        deploy.pop("endpoint_mode")
        if not ports:
            deploy["endpoint_mode"] = "dnsrr"
    if str(deploy.get("mode", "")).endswith("-job"):
        # A job has no updates, and its tasks are not started again whatever happens.
        for key in ("update_config", "rollback_config"):
            deploy.pop(key, None)
        deploy.pop("restart_policy", None)
        if service.get("restart") in ("always", "unless-stopped"):
            del service["restart"]
        deploy["restart_policy"] = {"condition": "none"}
    return service
