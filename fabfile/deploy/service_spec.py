"""A service of a compose file -> the specification `docker stack deploy` makes of it. Pure.

Follows docker/cli, cli/compose/convert (v20.10 to v28):
https://github.com/docker/cli/tree/master/cli/compose/convert
Every key of Docker's schemas is known (compose_keys.py). What is not known here, or depends on the
manager's own environment and files, is named, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fabfile.deploy import compose_keys
from fabfile.deploy import service_spec_parts as parts
from fabfile.deploy.docker_values import (
    CannotCompareError,
    flag,
    labels,
    nano_cpus,
    nanoseconds,
    size,
    strings,
    words,
)
from fabfile.deploy.service_mounts import mounts
from fabfile.deploy.service_spec_parts import Stack
from fabfile.swarm.docker_commands import IMAGE_LABEL, STACK_LABEL

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
        "ContainerSpec": _container(keys, around, image, unknown),
        "Resources": _resources(deploy.section("resources")),
        "RestartPolicy": _restart_policy(keys, deploy),
        "Placement": _placement(deploy.section("placement")),
        "Networks": parts.networks(keys.take("networks", lambda v: v), around, service, unknown),
        "LogDriver": keys.take("logging", parts.log_driver),
    }
    deploy_labels = deploy.take("labels", labels) or {}
    spec = {
        "Name": f"{stack}_{service}",
        "Labels": {**deploy_labels, STACK_LABEL: stack, IMAGE_LABEL: image},
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


def _container(keys: Keys, around: Stack, image: str, unknown: list[str]) -> dict[str, Any]:
    added, dropped = parts.capabilities(keys.take("cap_add"), keys.take("cap_drop"))
    container = {
        "Image": image,
        "Labels": {**(keys.take("labels", labels) or {}), STACK_LABEL: around.name},
        "Command": keys.take("entrypoint", words),
        "Args": keys.take("command", words),
        "Env": keys.take("environment", partial(parts.environment, unknown=unknown)),
        "Hostname": keys.take("hostname", str),
        "Dir": keys.take("working_dir", str),
        "User": keys.take("user", str),
        "TTY": keys.take("tty", flag),
        "OpenStdin": keys.take("stdin_open", flag),
        "ReadOnly": keys.take("read_only", flag),
        "Init": keys.take("init", flag),
        "StopSignal": keys.take("stop_signal", str),
        "StopGracePeriod": keys.take("stop_grace_period", nanoseconds),
        "Sysctls": keys.take("sysctls", labels),
        "Healthcheck": _healthcheck(keys),
        "Mounts": keys.take("volumes", partial(mounts, around=around, unknown=unknown)),
        "Secrets": keys.take("secrets", lambda items: around.files("secrets", items)),
        "Configs": keys.take("configs", lambda items: around.files("configs", items)),
        "DNSConfig": {
            "Nameservers": keys.take("dns", strings),
            "Search": keys.take("dns_search", strings),
        },
        "CapabilityAdd": added,
        "CapabilityDrop": dropped,
        "Hosts": keys.take("extra_hosts", parts.hosts),
        "Ulimits": keys.take("ulimits", parts.ulimits),
        "Isolation": keys.take("isolation", str),
        "OomScoreAdj": keys.take("oom_score_adj", _whole),
        "Privileges": {"CredentialSpec": keys.take("credential_spec", around.credential_spec)},
    }
    # Docker takes these where `docker run` would; a Swarm service has no use for them.
    for ignored in compose_keys.IGNORED:
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
    if check.take("disable", flag):
        result = {"Test": ["NONE"]}
    check.finish()
    return result


def _resources(keys: Keys) -> dict[str, Any]:
    result = {}
    for key, name in (("limits", "Limits"), ("reservations", "Reservations")):
        part = keys.section(key)
        result[name] = {
            "NanoCPUs": part.take("cpus", nano_cpus),
            "MemoryBytes": part.take("memory", size),
            "Pids": part.take("pids", _whole),
            "GenericResources": part.take("generic_resources", parts.generic_resources),
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
    name, _, attempts = str(value).partition(":")
    if name == "no":
        return {}
    if name not in ("always", "unless-stopped", "on-failure"):
        raise CannotCompareError(value)
    condition = "on-failure" if name == "on-failure" else "any"
    return {"Condition": condition, "MaxAttempts": int(attempts or 0)}


def _placement(keys: Keys) -> dict[str, Any]:
    result = {
        "Constraints": keys.take("constraints", strings),
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
    if mode == "replicated-job":
        return {"ReplicatedJob": {"MaxConcurrent": replicas, "TotalCompletions": replicas}}
    if mode in ("global", "global-job"):
        return {"Global" if mode == "global" else "GlobalJob": {}}
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


def _whole(value: Any) -> int:
    return int(value)
