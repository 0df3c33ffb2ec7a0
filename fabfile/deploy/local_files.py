"""The files that a compose file names: read here, beside it, as `docker stack deploy` does.

Environment files end up in `environment`. Files of configs and secrets become versions that are
external to the stack, so that nothing has to be on the manager and a changed file is a change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabfile.base.errors import ConfigError
from fabfile.deploy import compose_file as compose
from fabfile.deploy import env_file
from fabfile.deploy.docker_values import CannotCompareError, labels, strings, text

# Bytes, as moby/swarmkit takes them: api/validation/secrets.go, manager/controlapi/config.go.
_LIMITS = {"secrets": 500 * 1024, "configs": 1000 * 1024}
_BEHIND = "write its path relative to the compose file, or restore it"


@dataclass(frozen=True)
class LocalFile:
    """A config or secret of a compose file with the content of its file.

    `base` is the name Docker would give it. `name` is that of the version.
    """

    kind: str
    base: str
    content: bytes
    labels: tuple[tuple[str, str], ...] = ()
    template_driver: str = ""

    def __repr__(self) -> str:
        return f"LocalFile({self.kind}, {self.base})"


@dataclass(frozen=True)
class Resolved:
    """A compose file that names no local files any more, and what it took from them.

    `shown` has a service for each that reads environment files, with the variables that the
    compose file sets itself: the others may hold passwords and are never shown.
    """

    compose: dict[str, Any]
    files: tuple[LocalFile, ...]
    shown: Mapping[str, frozenset[str]]


Version = Callable[[LocalFile], str]
"""Gives a file the name of its version."""


def resolve(data: Mapping[str, Any], path: Path, stack: str, version: Version) -> Resolved:
    """Given a filled compose file, return one that names no local files, and those that it uses.

    `path` is the compose file's. Raises ConfigError, naming the place, for a file that cannot be
    read or that Docker would not take.
    """
    folder = path.resolve().parent
    services = {
        key: _with_env_files(service, folder, f"{path.name}.services.{key}")
        if isinstance(service, Mapping)
        else service
        for key, service in data["services"].items()
    }
    result = {**data, "services": services}
    used: list[LocalFile] = []
    for kind in _LIMITS:
        entries = data.get(kind)
        if not isinstance(entries, Mapping):
            continue
        found = {
            str(key): _read_entry(kind, str(key), entry, folder, f"{path.name}.{kind}.{key}", stack)
            for key, entry in entries.items()
            if isinstance(entry, Mapping) and not entry.get("external") and not entry.get("driver")
        }
        if found:
            names = {key: version(file) for key, file in found.items()}
            result[kind] = {**entries, **{k: _external(name) for k, name in names.items()}}
            needed = {key for service in services.values() for key in _sources(service, kind)}
            used += [file for key, file in found.items() if key in needed]
            if kind == "configs":
                _credential_specs(result, names)
    shown = {
        str(key): frozenset(compose.environment(service))
        for key, service in data["services"].items()
        if isinstance(service, Mapping) and service.get("env_file")
    }
    return Resolved(result, tuple(used), shown)


def _external(name: str) -> dict[str, Any]:
    return {"external": True, "name": name}


def _sources(service: Any, kind: str) -> set[str]:
    """The configs or secrets that a service uses, by their keys."""
    if not isinstance(service, Mapping):
        return set()
    items = service.get(kind) or ()
    found = {str(i.get("source") if isinstance(i, Mapping) else i) for i in items}
    credentials = service.get("credential_spec") if kind == "configs" else None
    if isinstance(credentials, Mapping) and credentials.get("config"):
        found.add(str(credentials["config"]))
    return found


def _credential_specs(result: dict[str, Any], names: Mapping[str, str]) -> None:
    """Docker finds the config of a credential_spec only where key and name are the same."""
    for key, service in result["services"].items():
        credentials = service.get("credential_spec") if isinstance(service, Mapping) else None
        if not isinstance(credentials, Mapping):
            continue
        name = names.get(str(credentials.get("config")))
        if name:
            changed = {**service, "credential_spec": {**credentials, "config": name}}
            result["services"][key] = changed
            result["configs"][name] = _external(name)


def _with_env_files(service: Mapping[str, Any], folder: Path, where: str) -> Mapping[str, Any]:
    """The service with its env_file read into environment, whose own entries win."""
    if not service.get("env_file"):
        return {k: v for k, v in service.items() if k != "env_file"}
    found: dict[str, Any] = {}
    for number, name in enumerate(strings(service["env_file"])):
        place = f"{where}.env_file[{number}]"
        path, content = _read(name, folder, place)
        found |= env_file.parse(content, path, os.environ)
    rest = {key: value for key, value in service.items() if key != "env_file"}
    return {**rest, "environment": {**found, **compose.environment(service)}}


def _read_entry(
    kind: str, key: str, entry: Mapping[str, Any], folder: Path, where: str, stack: str
) -> LocalFile:
    if not isinstance(entry.get("file"), str) or not entry["file"]:
        raise ConfigError(
            f"{where}: names no file",
            hint="write 'file: path', or 'external: true' for one that is there",
        )
    path, content = _read(entry["file"], folder, f"{where}.file")
    limit = _LIMITS[kind]
    what = kind.removesuffix("s")
    if not content:
        raise ConfigError(
            f"{path}: is empty, and Docker takes no empty {what}", hint=f"see {where}"
        )
    if len(content) > limit:
        raise ConfigError(
            f"{path}: has {len(content)} bytes, and Docker takes {limit} at most in a {what}",
            hint=f"mount a volume instead; see {where}",
        )
    try:
        given = labels(entry.get("labels") or {})
        driver = text(entry.get("template_driver"))
    except (CannotCompareError, TypeError):
        raise ConfigError(
            f"{where}: labels are no texts", hint="write labels: {name: value}"
        ) from None
    base = str(entry.get("name") or f"{stack}_{key}")
    return LocalFile(kind, base, content, tuple(sorted(given.items())), driver)


def _read(name: str, folder: Path, where: str) -> tuple[Path, bytes]:
    path = folder / name
    try:
        return path, path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{where}: {path}: no such file", hint=_BEHIND) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{where}: {path}: {reason}", hint=_BEHIND) from None
