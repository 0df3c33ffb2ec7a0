"""The lists of a compose service: environment, networks, ports, secrets, configs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fabfile.deploy.docker_values import CannotCompareError, labels, text

# Docker's own networks, which are on every node and know no aliases.
PREDEFINED = ("bridge", "host", "none", "default")


class Stack:
    """What surrounds a service: its stack's name and the compose file's top level."""

    def __init__(self, name: str, compose: Mapping[str, Any]) -> None:
        self.name = name
        self._compose = compose

    def declared(self, kind: str, key: str) -> Mapping[str, Any]:
        """The top-level entry of a network, volume, secret or config."""
        entries = self._compose.get(kind) or {}
        if key not in entries:
            raise CannotCompareError(f"{kind}.{key}")
        return entries[key] or {}

    def full_name(self, kind: str, key: str) -> str:
        """The name Docker knows it by: its own, or the stack's name and the key."""
        entry = self.declared(kind, key)
        external = entry.get("external")
        if isinstance(external, Mapping):
            return str(external.get("name") or key)
        return str(entry.get("name") or (key if external else f"{self.name}_{key}"))

    def network(self, key: str) -> str:
        """The full name of a network; `default` need not be declared."""
        if key == "default" and key not in (self._compose.get("networks") or {}):
            return f"{self.name}_default"
        return self.full_name("networks", key)

    def files(self, kind: str, items: Any) -> list[dict[str, Any]]:
        """Secrets or configs of a service. Docker keeps them under their full names."""
        name = "SecretName" if kind == "secrets" else "ConfigName"
        result = []
        for item in items:
            entry = {"source": item} if isinstance(item, str) else dict(item)
            source = str(entry["source"])
            mode = entry.get("mode")
            file = {
                "Name": str(entry.get("target") or source),
                "UID": str(entry.get("uid") or "0"),
                "GID": str(entry.get("gid") or "0"),
                "Mode": 0o444 if mode is None else int(mode),
            }
            result.append({"File": file, name: self.full_name(kind, source)})
        return sorted(result, key=lambda item: str(item[name]))

    def credential_spec(self, value: Any) -> dict[str, Any]:
        """A Windows credential specification, a config by its full name."""
        _only(value, "config", "file", "registry")
        config = value.get("config")
        return {
            "Config": self.full_name("configs", config) if config else None,
            "File": value.get("file"),
            "Registry": value.get("registry"),
        }


def networks(
    value: Any, around: Stack, service: str, unknown: list[str]
) -> list[dict[str, Any]] | None:
    """A service's networks by name, with its aliases; `default` where it names none."""
    try:
        # Every service joins the stack's own network unless the file says otherwise.
        value = value or ["default"]
        items = value.items() if isinstance(value, Mapping) else [(key, None) for key in value]
        result = []
        for key, given in items:
            options = given or {}
            # `docker stack deploy` passes over fixed addresses.
            _only(options, "aliases", "driver_opts", "ipv4_address", "ipv6_address")
            target = around.network(str(key))
            aliases = [str(alias) for alias in options.get("aliases") or ()]
            if target not in PREDEFINED:
                aliases.append(service)
            one: dict[str, Any] = {"Target": target, "Aliases": aliases}
            if options.get("driver_opts"):
                one["DriverOpts"] = labels(options["driver_opts"])
            result.append(one)
    except (CannotCompareError, TypeError, AttributeError):
        unknown.append("networks")
        return None
    # Docker sorts these by name, as it does secrets and configs; mounts it leaves.
    return sorted(result, key=lambda item: str(item["Target"]))


def environment(value: Any, unknown: list[str]) -> list[str]:
    """Environment as NAME=value. A bare name comes from the manager's own: noted in `unknown`."""
    if isinstance(value, Mapping):
        pairs = {str(key): None if item is None else text(item) for key, item in value.items()}
    else:
        split = [str(item).partition("=") for item in value]
        pairs = {name: content if equals else None for name, equals, content in split}
    unknown += [f"environment.{name}" for name, content in pairs.items() if content is None]
    return sorted(f"{name}={content}" for name, content in pairs.items() if content is not None)


def hosts(value: Any) -> list[str]:
    """extra_hosts as lines of /etc/hosts; a mapping is sorted, a list keeps its order."""
    if isinstance(value, Mapping):
        value = sorted(f"{name}:{text(ip)}" for name, ip in value.items() if ip is not None)
    pairs = [str(item).partition(":") for item in value]
    return [f"{ip} {name}" for name, colon, ip in pairs if colon]


def ulimits(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Limits by name: one number is both the soft and the hard one."""
    return [
        {"Name": name, "Hard": int(limit["hard"]), "Soft": int(limit["soft"])}
        if isinstance(limit, Mapping)
        else {"Name": name, "Hard": int(limit), "Soft": int(limit)}
        for name, limit in sorted(value.items())
    ]


def capabilities(added: Any, dropped: Any) -> tuple[list[str], list[str]]:
    """What is added and dropped, as Docker writes it: ALL stands for every other, added wins."""
    add, drop = ({_capability(item) for item in value or ()} for value in (added, dropped))
    add, drop = ({"ALL"} if "ALL" in names else names for names in (add, drop))
    return sorted(add - {"RESET"}), sorted(drop - add - {"RESET"})


def _capability(value: Any) -> str:
    name = str(value).strip().upper()
    return name if name in ("ALL", "RESET") or name.startswith("CAP_") else f"CAP_{name}"


def ports(items: Any) -> list[dict[str, Any]]:
    """Published ports from the long form, or from "8080", "8080:80" and ranges, with /udp."""
    return [port for item in items for port in _ports(item)]


def _ports(item: Any) -> Iterator[dict[str, Any]]:
    if isinstance(item, Mapping):
        _only(item, "target", "published", "protocol", "mode", "name", "app_protocol")
        yield {
            "TargetPort": int(item["target"]),
            "PublishedPort": int(item.get("published") or 0),
            "Protocol": str(item.get("protocol") or "tcp"),
            "PublishMode": str(item.get("mode") or "ingress"),
        }
        return
    content, _, protocol = str(item).partition("/")
    # An address before them is passed over by Swarm.
    outer, _, inner = content.rpartition(":")
    targets = _range(inner)
    published = _range(outer.rpartition(":")[2]) or [0] * len(targets)
    if len(targets) == 1:
        targets *= len(published)
    for target, port in zip(targets, published, strict=True):
        yield {"TargetPort": target, "PublishedPort": port, "Protocol": (protocol or "tcp").lower(),
               "PublishMode": "ingress"}  # fmt: skip


def _range(content: str) -> list[int]:
    if not content:
        return []
    first, _, last = content.partition("-")
    return list(range(int(first), int(last or first) + 1))


def log_driver(value: Mapping[str, Any]) -> dict[str, Any]:
    """The logging section as a driver with options."""
    _only(value, "driver", "options")
    return {"Name": value.get("driver"), "Options": labels(value.get("options") or {})}


def generic_resources(items: Any) -> list[dict[str, Any]]:
    """Reserved resources of a kind that the nodes define themselves."""
    specs = [item.get("discrete_resource_spec") or {} for item in items]
    return [
        {"DiscreteResourceSpec": {"Kind": str(spec.get("kind")), "Value": int(spec["value"])}}
        for spec in specs
        if spec
    ]


def _only(data: Mapping[str, Any], *known: str) -> None:
    if set(data) - set(known):
        raise CannotCompareError(data)
