"""Reading an untrusted YAML mapping key by key, collecting every mistake with its path.

`Section` knows nothing of hosts.yaml; inventory.py says which keys there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fabfile.units import parse_duration, parse_size

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Section:
    """One mapping of the file, at a path such as `hosts.db1`.

    Every getter records a mistake and returns the default (or a harmless
    placeholder) instead of raising, so that one pass finds all mistakes.
    """

    def __init__(self, value: object, path: str, errors: list[str]) -> None:
        self.path = path
        self.errors = errors
        self._known: list[str] = []
        if value is None:
            value = {}
        if not isinstance(value, dict):
            errors.append(f"{path or 'the file'}: want a mapping (key: value), got {_kind(value)}")
            value = {}
        self._values: dict[Any, Any] = value

    def at(self, key: object) -> str:
        """Given a key, return its full path."""
        return f"{self.path}.{key}" if self.path else str(key)

    def fail(self, key: object, problem: str) -> None:
        """Record a mistake at a key."""
        self.errors.append(f"{self.at(key)}: {problem}")

    def section(self, key: str) -> Section:
        """The mapping below a key; an empty one if it is missing."""
        self._known.append(key)
        return Section(self._values.get(key), self.at(key), self.errors)

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Every entry as (name, mapping): for mappings whose keys are names."""
        for key, value in self._values.items():
            self._known.append(key)
            if not isinstance(key, str):
                self.fail(key, f"want a name, got {_kind(key)}")
                continue
            yield key, Section(value, self.at(key), self.errors)

    def text(
        self, key: str, default: str | None = None, *, pattern: str = "", want: str = ""
    ) -> str:
        """A string without control characters that fully matches `pattern`; `want` describes it."""
        value = self._take(key, str, "a text", default)
        if value is None:
            return ""
        if value is default:
            return value
        if _CONTROL.search(value):
            self.fail(key, "must not contain line breaks or other control characters")
        elif not value:
            self.fail(key, "is empty")
        elif pattern and not re.fullmatch(pattern, value):
            self.fail(key, f"{value!r} is not valid: want {want}")
        else:
            return value
        return default or ""

    def integer(self, key: str, default: int, *, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._take(key, int, "a whole number", default)
        assert value is not None
        if not low <= value <= high:
            self.fail(key, f"{value} is out of range: want {low} to {high}")
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, bool, "true or false", default)
        assert value is not None
        return value

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        """One of the allowed words."""
        value = self._take(key, str, "a text", default)
        if value in allowed or value is None:
            return value or default
        self.fail(key, f"{value!r} is not one of {', '.join(allowed)}{_suggest(value, allowed)}")
        return default

    def duration(self, key: str, default: int) -> int:
        """Seconds, from a whole number or from "26h"."""
        return self._measure(key, default, parse_duration)

    def size(self, key: str, default: int) -> int:
        """Bytes, from a whole number or from "10MiB"."""
        return self._measure(key, default, parse_size)

    def finish(self) -> None:
        """Refuse every key that no getter asked for."""
        for key in self._values:
            if key not in self._known:
                self.fail(key, f"unknown key{_suggest(str(key), tuple(self._known))}")

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def _measure(self, key: str, default: int, parse: Callable[[str], int]) -> int:
        self._known.append(key)
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        try:
            if not isinstance(value, str):
                raise ValueError(f"want a text such as '26h' or a whole number, got {_kind(value)}")
            return parse(value)
        except ValueError as error:
            self.fail(key, f"{value!r}: {error}")
            return default

    def _take(self, key: str, kind: type[T], want: str, default: T | None) -> T | None:
        self._known.append(key)
        value = self._values.get(key)
        if value is None:
            if default is None:
                self.fail(key, "is missing")
            return default
        # bool is a subclass of int, and a number where a name belongs is a mistake to report:
        # YAML reads an unquoted 8080 or yes as something else than text.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(key, f"want {want}, got {_kind(value)}")
            return default
        return value


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    return f"{value!r}"


def _suggest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
