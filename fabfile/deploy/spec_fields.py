"""A service's specification as readable names and values, so that two can be compared. Pure.

The live one is what `docker service inspect` shows, with defaults filled in; the wanted
one lacks them. Both are brought to one form, in which only real differences are left.
Nothing is left out: a field that is not known here shows under its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from fabfile.deploy.service_spec_parts import PREDEFINED
from fabfile.swarm.docker_commands import IMAGE_LABEL

_ID = re.compile("[a-z0-9]{25}")
"""What swarmkit names its objects by: identity/randomid.go."""
# moby/swarmkit, api/defaults/service.go
_SECOND = 10**9
_UPDATE = {"Parallelism": 1, "FailureAction": "pause", "Monitor": 5 * _SECOND,
           "Order": "stop-first"}  # fmt: skip
_DURATIONS = {"StopGracePeriod", "Interval", "Timeout", "StartPeriod", "StartInterval", "Delay",
              "Monitor", "Window"}  # fmt: skip
# What the API calls a field, and what a compose file calls it. The first that fits counts.
_READABLE = (
    ("TaskTemplate.ContainerSpec.Image", "image"),
    ("TaskTemplate.ContainerSpec.Env", "environment"),
    ("TaskTemplate.ContainerSpec.Args", "command"),
    ("TaskTemplate.ContainerSpec.Command", "entrypoint"),
    ("TaskTemplate.ContainerSpec.Mounts", "volumes"),
    ("TaskTemplate.ContainerSpec.Healthcheck", "healthcheck"),
    ("TaskTemplate.ContainerSpec.Secrets", "secrets"),
    ("TaskTemplate.ContainerSpec.Configs", "configs"),
    ("TaskTemplate.ContainerSpec.Labels", "labels"),
    ("TaskTemplate.ContainerSpec.StopGracePeriod", "stop_grace_period"),
    ("TaskTemplate.ContainerSpec.StopSignal", "stop_signal"),
    ("TaskTemplate.ContainerSpec", "container"),
    ("TaskTemplate.Networks", "networks"),
    ("TaskTemplate.Placement", "placement"),
    ("TaskTemplate.Resources", "resources"),
    ("TaskTemplate.RestartPolicy", "restart_policy"),
    ("TaskTemplate", "task"),
    ("UpdateConfig", "update_config"),
    ("RollbackConfig", "rollback_config"),
    ("EndpointSpec.Mode", "endpoint_mode"),
    ("EndpointSpec.Ports", "ports"),
    ("Mode.Replicated.Replicas", "replicas"),
    ("Mode.Kind", "mode"),
    ("Labels", "deploy.labels"),
)


def fields(spec: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, str]:
    """A specification as readable names and values."""
    flat: dict[str, str] = {}
    _flatten(_one_form(spec, networks), "", flat)
    return flat


def order(spec: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, list[str]]:
    """The lists of a task template in their order, by what identifies their items.

    Another order means the same, but makes Swarm replace the tasks once the service is
    updated for whatever reason. `docker service update` sorts what it touches.
    """
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    attached = template.get("Networks") or spec.get("Networks") or ()
    found = {
        "Mounts": [str(mount["Target"]) for mount in container.get("Mounts") or ()],
        "Env": [item.partition("=")[0] for item in container.get("Env") or ()],
        "Networks": [_network_name(item["Target"], networks) for item in attached],
    }
    for kind in ("Secrets", "Configs"):
        # What has no file in the container (a credential_spec) is no part of the order.
        files = [item["File"]["Name"] for item in container.get(kind) or () if item.get("File")]
        found[kind] = files
    return found


def _flatten(value: Any, path: str, flat: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(item, f"{path}.{key}" if path else str(key), flat)
        return
    key = path.rpartition(".")[2]
    # A number of replicas is never empty: 0 is a wish, as is `init: false`.
    if value in ([], None, "") or (not value and key not in ("Replicas", "Init")):
        return
    flat[_readable(path)] = _text(key, value)


def _readable(path: str) -> str:
    for start, name in _READABLE:
        if path == start or path.startswith(start + "."):
            return name + path[len(start) :]
    return path


def _text(key: str, value: Any) -> str:
    if key in _DURATIONS and isinstance(value, int):
        return f"{(Decimal(value) / _SECOND).normalize():f}s"
    if isinstance(value, list):
        plain = all(isinstance(item, str) for item in value)
        if plain:
            return " ".join(_word(item) for item in value)
        return json.dumps(value, sort_keys=True)
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def _word(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text


def _one_form(spec: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, Any]:
    """The spec with defaults filled in, lists keyed by what identifies their items."""
    template = dict(spec["TaskTemplate"])
    container = _one_container(template["ContainerSpec"])
    labels = {k: v for k, v in (spec.get("Labels") or {}).items() if k != IMAGE_LABEL}
    # Kept by `docker stack deploy` as they are, or no setting of ours.
    for key in ("ForceUpdate", "Runtime"):
        template.pop(key, None)
    placement = dict(template.get("Placement") or {})
    # Noted by Docker when it asks a registry for the digest; no setting of ours either.
    placement.pop("Platforms", None)
    policy = _filled(
        template.get("RestartPolicy"), {"Condition": "any", "Delay": 5 * _SECOND}, zero=("Delay",)
    )
    template |= {
        "ContainerSpec": container,
        "Placement": placement,
        "RestartPolicy": policy,
        # Before API 1.29 networks stood beside the template.
        "Networks": _one_networks(template.get("Networks") or spec.get("Networks"), networks),
    }
    endpoint = _filled(spec.get("EndpointSpec"), {"Mode": "vip"})
    endpoint["Ports"] = {
        f"{port['TargetPort']}/{port.get('Protocol') or 'tcp'} to {port.get('PublishedPort', 0)}":
            port.get("PublishMode") or "ingress"
        for port in endpoint.get("Ports") or ()
    }  # fmt: skip
    rest = {k: v for k, v in spec.items() if k not in ("Name", "Networks")}
    return rest | {
        "Mode": _one_mode(spec.get("Mode") or {}),
        "Labels": _keyed(labels),
        "TaskTemplate": template,
        "UpdateConfig": _filled(spec.get("UpdateConfig"), _UPDATE),
        "RollbackConfig": _filled(spec.get("RollbackConfig"), _UPDATE),
        "EndpointSpec": endpoint,
    }


def _one_mode(mode: Mapping[str, Any]) -> dict[str, Any]:
    """Replicated is what a service is unless told otherwise; a job runs once unless told."""
    if "ReplicatedJob" in mode:
        job = mode["ReplicatedJob"] or {}
        # Docker fills in 1, and as many at once as there are.
        total = job.get("TotalCompletions") or 1
        return {
            "Kind": "replicated-job",
            "Total": total,
            "AtOnce": job.get("MaxConcurrent") or total,
        }
    for key, name in (("Global", "global"), ("GlobalJob", "global-job")):
        if key in mode:
            return {"Kind": name}
    return dict(mode)


def _one_container(spec: Mapping[str, Any]) -> dict[str, Any]:
    container = _filled(spec, {"StopGracePeriod": 10 * _SECOND}, zero=("StopGracePeriod",))
    if isinstance(spec.get("Init"), bool):
        container["Init"] = spec["Init"]
    if container.get("Isolation") == "default":
        del container["Isolation"]
    container["Env"] = _keyed(dict(i.partition("=")[::2] for i in container.get("Env") or ()))
    _name_credential_spec(container)
    container["Labels"] = _keyed(container.get("Labels") or {})
    container["Mounts"] = {
        mount["Target"]: {k: v for k, v in mount.items() if k != "Target"}
        for mount in container.get("Mounts") or ()
    }
    for kind, name in (("Secrets", "SecretName"), ("Configs", "ConfigName")):
        container[kind] = {
            (item.get("File") or {}).get("Name", item[name]): json.dumps(
                [item[name], item.get("File")], sort_keys=True
            )
            for item in container.get(kind) or ()
        }
    return container


def _keyed(items: Mapping[str, str]) -> dict[str, Any]:
    """Values of a user's own: quoted, so that an empty one is not taken for an absent one."""
    return {key: value or '""' for key, value in items.items()}


def _one_networks(items: Any, networks: Mapping[str, str]) -> dict[str, Any]:
    """Networks by name: live ones are given by id.

    Docker's own networks (host, bridge) have an id there that no list shows.
    """
    found: dict[str, Any] = {}
    for item in items or ():
        name = _network_name(item["Target"], networks)
        found[name] = " ".join(item.get("Aliases") or ("-",))
        found[f"{name}.driver_opts"] = _keyed(item.get("DriverOpts") or {})
    return found


def _network_name(target: str, networks: Mapping[str, str]) -> str:
    name = networks.get(target, target)
    if name in PREDEFINED or (target not in networks and _ID.fullmatch(target)):
        return "a network of the node's own"
    return name


def _name_credential_spec(container: dict[str, Any]) -> None:
    """A live one names its config by id, which stands beside the name among the configs."""
    spec = (container.get("Privileges") or {}).get("CredentialSpec") or {}
    names = {c.get("ConfigID"): c["ConfigName"] for c in container.get("Configs") or ()}
    if spec.get("Config"):
        named = {**spec, "Config": names.get(spec["Config"], spec["Config"])}
        container["Privileges"] = {**container["Privileges"], "CredentialSpec": named}
    # It is not put into the container, so it is no file of the service.
    container["Configs"] = [c for c in container.get("Configs") or () if "Runtime" not in c]


def _filled(
    value: Mapping[str, Any] | None, defaults: Mapping[str, Any], zero: Collection[str] = ()
) -> dict[str, Any]:
    """The defaults stand in for settings that are missing or empty; a parallelism of 0 is none.

    `zero` names durations of which 0 is not the default, but a wish.
    """
    given = {k: v for k, v in (value or {}).items() if v}
    if (value or {}).get("Parallelism") == 0:
        given["Parallelism"] = "all at once"
    given |= {k: "0s" for k in zero if (value or {}).get(k) == 0}
    return {**defaults, **given}
