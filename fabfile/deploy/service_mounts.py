"""Volumes of a compose service -> mounts, in the long form and in the short one. Pure.

https://github.com/docker/cli/blob/master/cli/compose/loader/volume.go and convert/volume.go
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fabfile.deploy.docker_values import CannotCompareError, labels, size
from fabfile.swarm.docker_commands import STACK_LABEL

_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")


class Surroundings(Protocol):
    """What mounts need to know of their stack."""

    name: str

    def declared(self, kind: str, key: str) -> Mapping[str, Any]:
        """The top-level entry."""

    def full_name(self, kind: str, key: str) -> str:
        """The name Docker knows it by."""


def mounts(items: Any, around: Surroundings, unknown: list[str]) -> list[dict[str, Any]]:
    """Mounts in their order. Those with a path of the manager's are noted in `unknown`.

    Docker completes a relative path, and ~, where it runs; a node's path is absolute.
    """
    return [_mount(_long(item), around, unknown) for item in items]


def _long(item: Any) -> dict[str, Any]:
    """The long form of "source:target:options"."""
    if not isinstance(item, str):
        return dict(item)
    parts = _parts(item)
    if len(parts) == 1:
        return {"type": "volume", "target": parts[0]}
    if len(parts) > 3:
        raise CannotCompareError(item)
    source, target = parts[:2]
    result: dict[str, Any] = {"type": "bind" if _is_path(source) else "volume", "source": source,
                              "target": target}  # fmt: skip
    for option in parts[2].split(",") if parts[2:] else ():
        # Others are skipped by Docker, too.
        if option in ("ro", "rw"):
            result["read_only"] = option == "ro"
        elif option == "nocopy":
            result["volume"] = {"nocopy": True}
        elif option in _PROPAGATIONS:
            result["bind"] = {"propagation": option}
    return result


def _parts(text: str) -> list[str]:
    """Split at colons, but not behind the letter of a Windows drive."""
    if len(text) <= 2:
        return [text]
    parts = [""]
    for character in text:
        drive = len(parts[-1]) == 1 and parts[-1].isalpha()
        if character == ":" and not drive:
            parts.append("")
        else:
            parts[-1] += character
    if not all(parts):
        raise CannotCompareError(text)
    return parts


def _is_path(source: str) -> bool:
    drive = source[0].isalpha() and source[1:2] == ":"
    return source[0] in "./~" or source.startswith("\\\\") or drive


def _mount(item: dict[str, Any], around: Surroundings, unknown: list[str]) -> dict[str, Any]:
    kind, source = item.get("type") or "volume", item.get("source")
    # Swarm drops `consistency`.
    mount = {"Type": kind, "Target": item["target"], "ReadOnly": item.get("read_only")}
    options = item.get(kind) or {}
    if kind == "volume":
        if source:
            mount["Source"] = around.full_name("volumes", source)
            mount["VolumeOptions"] = _volume_options(source, options, around)
    elif kind == "tmpfs":
        mount["TmpfsOptions"] = {"SizeBytes": size(options["size"]) if "size" in options else None}
    elif kind in ("bind", "npipe"):
        if str(source).startswith(("/", "\\")) or str(source)[1:2] == ":":
            mount["Source"] = source
        else:
            unknown.append(f"volumes.{item['target']}.Source")
        mount["BindOptions"] = {"Propagation": (item.get("bind") or {}).get("propagation")}
    elif kind == "cluster":
        group = str(source).startswith("group:")
        mount["Source"] = source if group else around.full_name("volumes", str(source))
    else:
        raise CannotCompareError(kind)
    return mount


def _volume_options(
    source: str, options: Mapping[str, Any], around: Surroundings
) -> dict[str, Any]:
    result: dict[str, Any] = {"NoCopy": options.get("nocopy")}
    entry = around.declared("volumes", source)
    if entry.get("external"):
        return result
    result["Labels"] = {**labels(entry.get("labels") or {}), STACK_LABEL: around.name}
    if entry.get("driver") or entry.get("driver_opts"):
        result["DriverConfig"] = {
            "Name": entry.get("driver"),
            "Options": labels(entry.get("driver_opts") or {}),
        }
    return result
