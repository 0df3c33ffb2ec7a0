"""Compose files: filling in ${names} and turning the result into `docker stack deploy` input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fabfile.base.errors import ConfigError

Value = str | int | None
"""What a name stands for. None leaves out the entry whose whole value is that name."""

_NAME = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>[a-z_]+)\}|(?P<bad>))")
_WHOLE = re.compile(r"\$\{([a-z_]+)\}")
_LEFT_OUT = object()


class _Loader(yaml.SafeLoader):
    """Reads dates as the texts that they are for Docker, too."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in pairs if not tag.endswith(":timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Quoting(yaml.SafeDumper):
    """Quotes every text, keys too: Docker's YAML takes other words than ours for more than text.

    `y` and `n` are truth values there, `1e3` a number.
    """

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write everything out."""
        return True


_Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


def load(path: Path) -> dict[str, Any]:
    """Read a compose file as it stands. Raises ConfigError."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such compose file", hint="restore it: git checkout compose/"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: is not a readable compose file", details=tuple(str(error).splitlines())
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("services"), dict):
        raise ConfigError(f"{path}: has no services", hint="it must be a compose file, version 3.8")
    return data


def fill(data: Any, names: Mapping[str, Value], where: str) -> Any:
    """Given parsed YAML, return it with every ${name} replaced, in keys too, and $$ as $.

    A value that is nothing but ${name} takes the name's type. Values are put in after
    parsing, so no value can change the structure of the file.
    Raises ConfigError for a name that does not exist, naming its place.
    """
    if isinstance(data, dict):
        filled = {
            str(_text(str(key), names, where)): fill(value, names, f"{where}.{key}")
            for key, value in data.items()
        }
        return {key: value for key, value in filled.items() if value is not _LEFT_OUT}
    if isinstance(data, list):
        items = [fill(item, names, f"{where}[{i}]") for i, item in enumerate(data)]
        return [item for item in items if item is not _LEFT_OUT]
    if not isinstance(data, str):
        return data
    whole = _WHOLE.fullmatch(data)
    if whole:
        value = _lookup(whole[1], names, where)
        return _LEFT_OUT if value is None else value
    return _text(data, names, where)


def environment(service: Mapping[str, Any]) -> dict[str, Any]:
    """A service's variables by name, of either form. None: it has a name only."""
    given = service.get("environment") if isinstance(service, Mapping) else None
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    split = [str(item).partition("=") for item in given or ()]
    return {name: value if equals else None for name, equals, value in split}


def to_stack_input(data: Any) -> str:
    """Given a filled compose file, return YAML for `docker stack deploy --compose-file -`.

    Docker substitutes $names itself once more: every dollar is doubled against that.
    """
    return yaml.dump(
        _double_dollars(data), Dumper=_Quoting, sort_keys=True, default_flow_style=False
    )


def _text(text: str, names: Mapping[str, Value], where: str) -> str:
    def one(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["bad"] is not None:
            raise ConfigError(
                f"{where}: a lone $ in {text!r}", hint="write $$ for a dollar, ${name} for a name"
            )
        value = _lookup(match["name"], names, where)
        return "" if value is None else str(value)

    return _NAME.sub(one, text)


def _lookup(name: str, names: Mapping[str, Value], where: str) -> Value:
    if name not in names:
        raise ConfigError(
            f"{where}: unknown name ${{{name}}}", hint=f"known: {', '.join(sorted(names))}"
        )
    return names[name]


def _double_dollars(data: Any) -> Any:
    if isinstance(data, dict):
        return {_double_dollars(key): _double_dollars(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_double_dollars(item) for item in data]
    return data.replace("$", "$$") if isinstance(data, str) else data
