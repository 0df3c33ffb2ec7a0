"""YAML text -> plain data, strictly: a key that is there twice and every odd value is one error.

PyYAML alone keeps the last of two equal keys in silence, and lets ValueError,
KeyError and others out for values such as `2026-99-99` or `!!bool x`.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# What PyYAML's constructors raise, besides YAMLError, for values that do not fit their tag.
_ODD_VALUE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


class YamlTextError(Exception):
    """Not valid YAML. The message never quotes the text, `details` (lines) may."""

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with duplicate keys refused and odd values located."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that the mapping already has (before merge keys are resolved)."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = (key.tag, key.value)
            if name in seen:
                raise yaml.composer.ComposerError(
                    "the same key is there twice", None, f"second {key.value!r}", key.start_mark
                )
            seen.add(name)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Given a node, return its value; whatever is wrong with it becomes a YAMLError."""
        try:
            return super().construct_object(node, deep=deep)
        except _ODD_VALUE as error:
            raise yaml.constructor.ConstructorError(
                "a value does not fit its type", None, str(error), node.start_mark
            ) from None


class PlainNumbers(Loader):
    """Takes whole numbers as people write them only.

    YAML 1.1 reads 022 as 18, 0x1F as 31, 1_000 as 1000 and 1:30 as 90.
    """

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Given a whole number's node, return it."""
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", node.value):
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value} is not how a number is written here: digits only, the first not 0 "
                "(or in quotes, if it is a text)",
                node.start_mark,
            )
        value: int = super().construct_yaml_int(node)
        return value


PlainNumbers.add_constructor("tag:yaml.org,2002:int", PlainNumbers.construct_yaml_int)


def parse(text: str, loader: type[Loader] = Loader) -> Any:
    """Given the text of one YAML document, return its data (None if it is empty).

    Raises YamlTextError, and nothing else, for whatever is wrong with it.
    """
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise YamlTextError(f"is not valid YAML{where}", tuple(str(error).splitlines())) from None
    except yaml.reader.ReaderError as error:
        raise YamlTextError(
            "is not valid YAML (it holds a character YAML does not allow)",
            (f"character {error.character!r} at position {error.position}",),
        ) from None
    except RecursionError:
        raise YamlTextError("is not valid YAML (it is nested too deeply)") from None
    except _ODD_VALUE as error:
        raise YamlTextError("is not valid YAML", (str(error),)) from None
