"""Every key of Docker's compose schemas 3.0 to 3.13: what becomes of it, and since when it is one.

https://github.com/docker/cli/tree/master/cli/compose/schema/data; what `docker stack deploy`
ignores is in cli/compose/types/types.go (UnsupportedProperties, DeprecatedProperties) and in what
cli/compose/convert leaves out. In paths, * is any name and [] any item of a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fabfile.base.errors import ConfigError

# `docker stack deploy` takes them and does nothing with them. `restart` is said to be ignored
# there, but is not: it counts where deploy.restart_policy is missing.
IGNORED = (
    "build", "cgroup_parent", "cgroupns_mode", "container_name", "depends_on", "devices",
    "domainname", "expose", "external_links", "ipc", "links", "mac_address", "network_mode", "pid",
    "privileged", "security_opt", "shm_size", "tmpfs", "userns_mode",
)  # fmt: skip

COMPARED = "compared"
READ_HERE = "a file that is read here"
MADE_ONCE = "made by Docker where it is missing, and never changed"
NOTHING = "ignored by docker stack deploy"

# Compared, but for values that only the manager knows: these are named in a plan.
MANAGER = {
    "services.*.environment": "a name without a value has that of the manager's own environment",
    "services.*.volumes": "a relative path, or one from ~, is completed on the manager",
}

# The longest beginning of a path that is in here counts; what is not in here is compared.
_TREATED = {
    **{f"services.*.{key}": NOTHING for key in IGNORED},
    "services.*.networks.*.ipv4_address": NOTHING,
    "services.*.networks.*.ipv6_address": NOTHING,
    "services.*.volumes[].consistency": NOTHING,
    "services.*.env_file": READ_HERE,
    "configs": READ_HERE,
    "configs.*.name": COMPARED,
    "configs.*.external": COMPARED,
    "secrets": READ_HERE,
    "secrets.*.name": COMPARED,
    "secrets.*.external": COMPARED,
    "secrets.*.driver": MADE_ONCE,
    "secrets.*.driver_opts": MADE_ONCE,
    "networks": MADE_ONCE,
    "networks.*.name": COMPARED,
    "networks.*.external": COMPARED,
    "volumes.*.x-cluster-spec": MADE_ONCE,
}

# Keys that came with a version after 3.0, by that version; what is below a key came with it,
# unless it is named itself.
_SINCE = {
    1: ("secrets", "services.*.secrets"),
    2: (
        "networks.*.attachable", "services.*.build.cache_from", "services.*.deploy.endpoint_mode",
        "services.*.ports[]", "services.*.volumes[]",
    ),
    3: (
        "configs", "services.*.build.labels", "services.*.configs", "services.*.credential_spec",
        "services.*.deploy.placement.preferences",
    ),
    4: (
        "services.*.build.network", "services.*.build.target",
        "services.*.deploy.update_config.order", "services.*.healthcheck.start_period",
        "volumes.*.name",
    ),
    5: (
        "configs.*.name", "networks.*.name", "secrets.*.name", "services.*.build.shm_size",
        "services.*.deploy.resources.reservations.generic_resources", "services.*.isolation",
    ),
    6: ("services.*.volumes[].tmpfs",),
    7: ("services.*.deploy.rollback_config", "services.*.init"),
    8: (
        "configs.*.template_driver", "secrets.*.driver", "secrets.*.driver_opts",
        "secrets.*.template_driver", "services.*.credential_spec.config",
        "services.*.deploy.placement.max_replicas_per_node",
    ),
    9: (
        "services.*.build.extra_hosts", "services.*.cgroupns_mode",
        "services.*.deploy.resources.limits.pids",
    ),
    10: ("volumes.*.x-cluster-spec",),
    12: ("services.*.healthcheck.start_interval",),
    13: ("services.*.networks.*.driver_opts", "services.*.oom_score_adj"),
}  # fmt: skip
_MINOR = {path: minor for minor, paths in _SINCE.items() for path in paths}
# Below these, keys are names of the user's own.
_NAMES = {
    "services", "networks", "volumes", "secrets", "configs", "services.*.networks",
    "services.*.ulimits",
}  # fmt: skip


def treatment(path: str) -> str:
    """What becomes of a key, given by its path in the schema."""
    while path and path not in _TREATED:
        path = path.rpartition(".")[0]
    return _TREATED.get(path, COMPARED)


def since(path: str) -> int:
    """The minor version of 3.x in which a key came, given by its path in the schema."""
    ends = [match.start() for match in re.finditer(r"\.|\[", path)] + [
        match.end() for match in re.finditer(r"\[\]", path)
    ]
    return max(_MINOR.get(path[:end], 0) for end in (*ends, len(path)))


def check_version(data: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for a key that the compose file's own version does not have yet.

    Docker refuses it on the manager, without a word about versions. Keys that no version
    known here has are left to Docker, which may know them.
    """
    stated = re.fullmatch(r"3(?:\.(\d+))?", str(data.get("version", "")))
    if not stated:
        return
    minor = int(stated[1] or 0)
    for place, path in _paths(data, "", ""):
        needed = since(path)
        if needed > minor:
            raise ConfigError(
                f"{where}: {place} needs version 3.{needed} of compose files, "
                f"and this one says {data['version']}",
                hint=f'write version: "3.{needed}" at its top, or leave the key out',
            )


def _paths(data: Any, place: str, path: str) -> Iterator[tuple[str, str]]:
    """Every key below, where it stands and by its path in the schema."""
    if isinstance(data, list):
        for number, item in enumerate(data):
            yield from _paths(item, f"{place}[{number}]", f"{path}[]")
    if not isinstance(data, Mapping):
        return
    for key, value in data.items():
        name = "*" if path in _NAMES else str(key)
        below = (f"{place}.{key}", f"{path}.{name}") if path else (str(key), name)
        if value is not None:
            yield below
        yield from _paths(value, *below)
