"""A service of a compose file -> the specification `docker stack deploy` makes of it. Pure.

Follows docker/cli, cli/compose/convert (v20.10 to v27):
https://github.com/docker/cli/tree/master/cli/compose/convert
Keys that are not known here are named, never guessed at: whoever compares must take such a
service for changed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from fabfile import servicespec_parts as parts
from fabfile.servicespec_parts import CannotCompareError, Stack
from fabfile.swarm import IMAGE_LABEL, STACK_LABEL

_TOP_KEYS = {"version", "services", "networks", "volumes", "secrets", "configs"}


class Keys:
    """A mapping of a compose file, read key by key; what nobody asked for ends as unknown."""

    def __init__(self, data: Any, path: str, unknown: list[str]) -> None:
        self._rest: dict[str, Any] = {}
        if isinstance(data, Mapping):
            self._rest = {str(key): value for key, value in data.items()}
        elif data is not None:
            unknown.append(path)
        self._path = path
        self._unknown = unknown

    def take(self, key: str, convert: Callable[[Any], Any] = lambda value: value) -> Any:
        """The converted value; None where the key is not there or is beyond us."""
        value = self._rest.pop(key, None)
        if value is None:
            return None
        try:
            return convert(value)
        except (CannotCompareError, TypeError, ValueError, AttributeError, KeyError):
            self._unknown.append(self._join(key))
            return None

    def section(self, key: str) -> Keys:
        """The mapping below a key, empty where there is none."""
        return Keys(self._rest.pop(key, None), self._join(key), self._unknown)

    def __contains__(self, key: str) -> bool:
        return self._rest.get(key) is not None

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        self._unknown += [
            self._join(key)
            for key, value in self._rest.items()
            if not key.startswith("x-") and value is not None
        ]

    def _join(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def specification(
    compose: Mapping[str, Any], service: str, stack: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Given a filled compose file and one of its services, return (spec, unknown keys).

    The spec has the engine API's shape, with networks by name and without the
    ids of secrets and configs.
    """
    unknown: list[str] = [
        str(key) for key in compose if key not in _TOP_KEYS and not str(key).startswith("x-")
    ]
    around = Stack(stack, compose)
    keys = Keys(compose["services"][service], "", unknown)
    deploy = keys.section("deploy")
    image = str(keys.take("image", str) or "")
    template = {
        "ContainerSpec": _container(keys, around, image),
        "Resources": _resources(deploy.section("resources")),
        "RestartPolicy": _restart_policy(keys, deploy),
        "Placement": _placement(deploy.section("placement")),
        "Networks": parts.networks(keys.take("networks", lambda v: v), around, service, unknown),
        "LogDriver": keys.take("logging", parts.log_driver),
    }
    labels = deploy.take("labels", parts.labels) or {}
    spec = {
        "Name": f"{stack}_{service}",
        "Labels": {**labels, STACK_LABEL: stack, IMAGE_LABEL: image},
        "TaskTemplate": template,
        "Mode": _mode(deploy),
        "UpdateConfig": _update(deploy, "update_config"),
        "RollbackConfig": _update(deploy, "rollback_config"),
        "EndpointSpec": {
            "Mode": deploy.take("endpoint_mode", str.lower),
            "Ports": keys.take("ports", parts.ports),
        },
    }
    deploy.finish()
    keys.finish()
    return spec, tuple(sorted(unknown))


def _container(keys: Keys, around: Stack, image: str) -> dict[str, Any]:
    container = {
        "Image": image,
        "Labels": {**(keys.take("labels", parts.labels) or {}), STACK_LABEL: around.name},
        "Command": keys.take("entrypoint", _words),
        "Args": keys.take("command", _words),
        "Env": keys.take("environment", parts.environment),
        "Hostname": keys.take("hostname", str),
        "Dir": keys.take("working_dir", str),
        "User": keys.take("user", str),
        "TTY": keys.take("tty", _flag),
        "OpenStdin": keys.take("stdin_open", _flag),
        "ReadOnly": keys.take("read_only", _flag),
        "Init": keys.take("init", _flag),
        "StopSignal": keys.take("stop_signal", str),
        "StopGracePeriod": keys.take("stop_grace_period", nanoseconds),
        "Sysctls": keys.take("sysctls", parts.labels),
        "Healthcheck": _healthcheck(keys),
        "Mounts": keys.take("volumes", around.mounts),
        "Secrets": keys.take("secrets", lambda items: around.files("secrets", items)),
        "Configs": keys.take("configs", lambda items: around.files("configs", items)),
        "DNSConfig": {
            "Nameservers": keys.take("dns", _strings),
            "Search": keys.take("dns_search", _strings),
        },
        "CapabilityAdd": keys.take("cap_add", _capabilities),
        "CapabilityDrop": keys.take("cap_drop", _capabilities),
    }
    # Docker takes these where `docker run` would; a Swarm service has no use for them.
    for ignored in ("container_name", "depends_on", "expose", "links", "build"):
        keys.take(ignored)
    return container


def _healthcheck(keys: Keys) -> dict[str, Any] | None:
    if "healthcheck" not in keys:
        return None
    check = keys.section("healthcheck")
    result = {
        "Test": check.take("test", lambda v: ["CMD-SHELL", v] if isinstance(v, str) else list(v)),
        "Interval": check.take("interval", nanoseconds),
        "Timeout": check.take("timeout", nanoseconds),
        "StartPeriod": check.take("start_period", nanoseconds),
        "StartInterval": check.take("start_interval", nanoseconds),
        "Retries": check.take("retries", _whole),
    }
    if check.take("disable", _flag):
        result = {"Test": ["NONE"]}
    check.finish()
    return result


def _resources(keys: Keys) -> dict[str, Any]:
    result = {}
    for key, name in (("limits", "Limits"), ("reservations", "Reservations")):
        part = keys.section(key)
        result[name] = {
            "NanoCPUs": part.take("cpus", lambda v: round(float(v) * 1e9)),
            "MemoryBytes": part.take("memory", parts.size),
            "Pids": part.take("pids", _whole),
        }
        part.finish()
    keys.finish()
    return result


def _restart_policy(keys: Keys, deploy: Keys) -> dict[str, Any] | None:
    plain = keys.take("restart", _restart)
    if "restart_policy" not in deploy:
        return plain if isinstance(plain, dict) else None
    policy = deploy.section("restart_policy")
    result = {
        "Condition": policy.take("condition", str),
        "Delay": policy.take("delay", nanoseconds),
        "MaxAttempts": policy.take("max_attempts", _whole),
        "Window": policy.take("window", nanoseconds),
    }
    policy.finish()
    return result


def _restart(value: Any) -> dict[str, Any]:
    if value in ("no", False):
        return {}
    if value in ("always", "unless-stopped"):
        return {"Condition": "any"}
    raise CannotCompareError(value)


def _placement(keys: Keys) -> dict[str, Any]:
    result = {
        "Constraints": keys.take("constraints", _strings),
        "MaxReplicas": keys.take("max_replicas_per_node", _whole),
        "Preferences": keys.take(
            "preferences",
            lambda items: [{"Spread": {"SpreadDescriptor": str(i["spread"])}} for i in items],
        ),
    }
    keys.finish()
    return result


def _mode(deploy: Keys) -> dict[str, Any]:
    mode = deploy.take("mode", str) or "replicated"
    replicas = deploy.take("replicas", _whole)
    if mode == "global":
        return {"Global": {}}
    return {"Replicated": {"Replicas": 1 if replicas is None else replicas}}


def _update(deploy: Keys, key: str) -> dict[str, Any] | None:
    if key not in deploy:
        return None
    keys = deploy.section(key)
    parallelism = keys.take("parallelism", _whole)
    result = {
        "Parallelism": 1 if parallelism is None else parallelism,
        "Delay": keys.take("delay", nanoseconds),
        "FailureAction": keys.take("failure_action", str),
        "Monitor": keys.take("monitor", nanoseconds),
        "MaxFailureRatio": keys.take("max_failure_ratio", float),
        "Order": keys.take("order", str),
    }
    keys.finish()
    return result


_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
          "h": 3600 * 10**9}  # fmt: skip


def nanoseconds(value: Any) -> int:
    """Given a duration as Go writes it ("1m30s"), return nanoseconds; ValueError otherwise."""
    text = str(value)
    found = _DURATION.findall(text)
    if "".join(number + unit for number, unit in found) != text:
        raise ValueError(text)
    return round(sum(float(number) * _UNITS[unit] for number, unit in found))


def _words(value: Any) -> list[str]:
    return shlex.split(value) if isinstance(value, str) else [str(word) for word in value]


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CannotCompareError(value)
    return value


def _whole(value: Any) -> int:
    return int(value)


def _capabilities(value: Any) -> list[str]:
    names = [str(item).upper() for item in value]
    return sorted({n if n.startswith("CAP_") or n == "ALL" else f"CAP_{n}" for n in names})
