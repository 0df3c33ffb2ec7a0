"""Changing single values of hosts.yaml in place: comments and everything else stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from fabfile.base.errors import ConfigError

_BY_HAND = "change it by hand"


def with_values(text: str, values: Mapping[tuple[str, str], str]) -> str:
    """Given a hosts file, return it with other values; keys are (section, key), with "" for a
    key of no section. Values are YAML: a text, or a list like [a, b].

    A key or section that is not there is added. Raises ConfigError where the file is written in
    a way that this cannot change.
    """
    for (section, key), value in values.items():
        text = _with_value(text, section, key, value)
    return text


def write(path: Path, text: str) -> None:
    """Replace a file at once, so that it is never half written. Raises OSError."""
    path = path.resolve()
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    shutil.copymode(path, new)
    new.replace(path)


def _with_value(text: str, section: str, key: str, value: str) -> str:
    root = yaml.compose(text)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ConfigError(f"{_name(section, key)}: hosts.yaml is no list of keys", hint=_BY_HAND)
    if not section:
        whole = _child(root, key)
        return (
            _replaced(text, section, key, value, whole[1])
            if whole
            else (f"{text.rstrip()}\n{key}: {value}\n")
        )
    found = _child(root, section)
    if found is None:
        return f"{text.rstrip()}\n{section}:\n  {key}: {value}\n"
    name, inner = found
    # An alias is the node that it stands for, which is written elsewhere.
    alias = inner.start_mark.index < name.end_mark.index
    if not isinstance(inner, yaml.MappingNode) or alias:
        raise ConfigError(f"{section}: is no section with keys of its own", hint=_BY_HAND)
    old = _child(inner, key)
    if old is None and inner.flow_style:
        at = inner.start_mark.index + 1
        return f"{text[:at]}{key}: {value}{', ' if inner.value else ''}{text[at:]}"
    if old is None:
        at = inner.start_mark.index
        return f"{text[:at]}{key}: {value}\n{' ' * inner.start_mark.column}{text[at:]}"
    return _replaced(text, section, key, value, old[1])


def _replaced(text: str, section: str, key: str, value: str, node: yaml.Node) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    a_list = isinstance(node, yaml.SequenceNode) and (not section or value.startswith("["))
    if isinstance(node, yaml.ScalarNode) or (a_list and text[start] == "["):
        return f"{text[:start]}{value}{text[end:]}"
    # A list with a line for each value: what is said there about them would be lost.
    head = text[:start].rstrip()
    if a_list and "#" not in text[start:end] and head.endswith(":"):
        return f"{head} {value}\n{text[text.rfind(chr(10), 0, end) + 1 :]}"
    raise ConfigError(f"{_name(section, key)}: is no plain value", hint=_BY_HAND)


def _name(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _child(node: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((name, value) for name, value in node.value if name.value == key), None)
