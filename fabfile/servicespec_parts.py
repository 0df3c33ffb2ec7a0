"""The lists of a compose service: environment, mounts, networks, ports, secrets, configs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fabfile.swarm import STACK_LABEL


class CannotCompareError(Exception):
    """A value in a form whose meaning is not known here."""


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

    def mounts(self, items: Any) -> list[dict[str, Any]]:
        """Mounts from the long form. The short form mixes paths, names and options: not read."""
        return [self._mount(dict(item)) for item in items if not _refuse_text(item)]

    def _mount(self, item: dict[str, Any]) -> dict[str, Any]:
        kind, source = item.pop("type"), item.pop("source", None)
        mount = {"Type": kind, "Target": item.pop("target")}
        mount["ReadOnly"] = item.pop("read_only", None)
        options = item.pop(kind, None) or {}
        if kind == "volume":
            mount["Source"] = self.full_name("volumes", source) if source else None
            mount["VolumeOptions"] = self._volume_options(source, dict(options))
        elif kind == "tmpfs":
            mount["TmpfsOptions"] = {"SizeBytes": size(options["size"]) if options else None}
            _only(options, "size")
        elif kind == "bind":
            if not str(source).startswith("/"):
                raise CannotCompareError(source)
            mount["Source"] = source
            mount["BindOptions"] = {"Propagation": options.get("propagation")}
            _only(options, "propagation")
        else:
            raise CannotCompareError(kind)
        _only(item)
        return mount

    def _volume_options(self, source: str | None, options: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {"NoCopy": options.get("nocopy")}
        _only(options, "nocopy")
        entry = self.declared("volumes", source) if source else {}
        if not source or entry.get("external"):
            return result
        result["Labels"] = {**labels(entry.get("labels") or {}), STACK_LABEL: self.name}
        if entry.get("driver") or entry.get("driver_opts"):
            result["DriverConfig"] = {
                "Name": entry.get("driver"),
                "Options": labels(entry.get("driver_opts") or {}),
            }
        return result

    def files(self, kind: str, items: Any) -> list[dict[str, Any]]:
        """Secrets or configs of a service. Docker keeps them under their full names."""
        name = "SecretName" if kind == "secrets" else "ConfigName"
        result = []
        for item in items:
            entry = {"source": item} if isinstance(item, str) else dict(item)
            source = str(entry["source"])
            if not self.declared(kind, source).get("external"):
                # Made by Docker from a file on the manager: its content is not known here.
                raise CannotCompareError(source)
            _only(entry, "source", "target", "uid", "gid", "mode")
            file = {
                "Name": str(entry.get("target") or source),
                "UID": str(entry.get("uid") or "0"),
                "GID": str(entry.get("gid") or "0"),
                "Mode": int(entry.get("mode", 0o444)),
            }
            result.append({"File": file, name: self.full_name(kind, source)})
        return sorted(result, key=lambda item: str(item[name]))


def networks(
    value: Any, around: Stack, service: str, unknown: list[str]
) -> list[dict[str, Any]] | None:
    """A service's networks by name, with its aliases; `default` where it names none."""
    try:
        # Every service joins the stack's own network unless the file says otherwise.
        value = ["default"] if value is None else value
        items = value.items() if isinstance(value, Mapping) else [(key, None) for key in value]
        result = []
        for key, given in items:
            options = given or {}
            _only(options, "aliases")
            aliases = [*(str(alias) for alias in options.get("aliases") or ()), service]
            result.append({"Target": around.network(str(key)), "Aliases": aliases})
    except (CannotCompareError, TypeError, AttributeError):
        unknown.append("networks")
        return None
    # Docker sorts these by name, as it does secrets and configs below; mounts it leaves.
    return sorted(result, key=lambda item: item["Target"])


def environment(value: Any) -> list[str]:
    """Environment as NAME=value. A bare name would come from the manager's own: not known."""
    pairs = value.items() if isinstance(value, Mapping) else [i.partition("=")[::2] for i in value]
    items = []
    for key, content in pairs:
        if content is None or isinstance(content, bool | float):
            raise CannotCompareError(key)
        items.append(f"{key}={content}")
    if not isinstance(value, Mapping) and not all("=" in item for item in value):
        raise CannotCompareError(value)
    return sorted(items)


def labels(value: Any) -> dict[str, str]:
    """A mapping, or a list of name=value, as a mapping of texts."""
    if isinstance(value, Mapping):
        if any(isinstance(item, bool | float) for item in value.values()):
            raise CannotCompareError(value)
        return {str(key): "" if item is None else str(item) for key, item in value.items()}
    return dict(str(item).partition("=")[::2] for item in value)


def ports(items: Any) -> list[dict[str, Any]]:
    """Published ports from the long form, or from "8080" and "8080:80" with /tcp or /udp."""
    return [_port(item) for item in items]


def _port(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        text, _, protocol = str(item).partition("/")
        published, _, target = text.rpartition(":")
        # Ranges and addresses end here: int() refuses them.
        item = {"target": target, "published": published or 0, "protocol": protocol or "tcp"}
    _only(item, "target", "published", "protocol", "mode", "name", "app_protocol")
    return {
        "TargetPort": int(item["target"]),
        "PublishedPort": int(item.get("published") or 0),
        "Protocol": str(item.get("protocol") or "tcp"),
        "PublishMode": str(item.get("mode") or "ingress"),
    }


def log_driver(value: Mapping[str, Any]) -> dict[str, Any]:
    """The logging section as a driver with options."""
    _only(value, "driver", "options")
    return {"Name": value.get("driver"), "Options": labels(value.get("options") or {})}


def size(value: Any) -> int:
    """Bytes from Docker's sizes: a number with b, k, m, g or t, each 1024 times the last."""
    text = str(value).lower().removesuffix("ib").removesuffix("b")
    factor = 1024 ** ("kmgt".index(text[-1]) + 1) if text[-1:] in tuple("kmgt") else 1
    return int(float(text.rstrip("kmgt")) * factor)


def _only(data: Mapping[str, Any], *known: str) -> None:
    if set(data) - set(known):
        raise CannotCompareError(data)


def _refuse_text(item: Any) -> bool:
    if isinstance(item, str):
        raise CannotCompareError(item)
    return False
