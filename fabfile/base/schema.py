"""Reading an untrusted YAML mapping key by key, collecting every mistake with its path.

`Section` knows nothing of hosts.yaml; config/inventory.py says which keys there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fabfile.base.units import format_size, parse_duration, parse_size

T = TypeVar("T")

_TEN_YEARS = 10 * 365 * 86400
_PEBIBYTE = 2**50


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
        name = key if isinstance(key, str) and key.isprintable() else _show(key)
        return f"{self.path}.{name}" if self.path else name

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
        """A string of printable characters that fully matches `pattern`; `want` describes it."""
        value = self._take(key, str, "a text", default)
        if value is None:
            return ""
        if value is default:
            return value
        if not value.isprintable():
            self.fail(key, "must not contain line breaks or other control characters")
        elif not value:
            self.fail(key, "is empty")
        elif pattern and not re.fullmatch(pattern, value):
            self.fail(key, f"{_show(value)} is not valid: want {want}")
        else:
            return value
        return default or ""

    def texts(
        self, key: str, default: tuple[str, ...], *, pattern: str, want: str
    ) -> tuple[str, ...]:
        """A string, or a list of different strings with at least one, each as in `text`."""
        value = self._values.get(key)
        if key not in self._values:
            self._known.append(key)
            return default
        if not isinstance(value, list):
            found = self.text(key, default[0] if default else "", pattern=pattern, want=want)
            return (found,)
        self._known.append(key)
        if not value:
            self.fail(key, "is an empty list")
            return default
        for number, item in enumerate(value):
            if not isinstance(item, str):
                self.fail(f"{key}[{number}]", f"want a text, got {_kind(item)} (put it in quotes)")
            elif not re.fullmatch(pattern, item):
                self.fail(f"{key}[{number}]", f"{_show(item)} is not valid: want {want}")
            elif item in value[:number]:
                self.fail(f"{key}[{number}]", f"{_show(item)} is named twice")
        return tuple(map(str, value))

    def integer(self, key: str, default: int, *, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._take(key, int, "a whole number", default)
        assert value is not None
        if not low <= value <= high:
            self.fail(key, f"{_show(value)} is out of range: want {low} to {high}")
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
        self.fail(
            key, f"{_show(value)} is not one of {', '.join(allowed)}{_suggest(value, allowed)}"
        )
        return default

    def duration(self, key: str, default: int, *, low: int = 0, high: int = _TEN_YEARS) -> int:
        """Seconds from `low` to `high`, from a whole number or from "26h"."""
        want = f"{low} to {high} seconds"
        return self._measure(key, default, parse_duration, want=want, low=low, high=high)

    def size(self, key: str, default: int, *, low: int = 0) -> int:
        """Bytes, from a whole number or from "10MiB"."""
        want = f"{format_size(low) if low else 0} to 1 PiB"
        return self._measure(key, default, parse_size, want=want, low=low, high=_PEBIBYTE)

    def finish(self, *, extensions: bool = False) -> None:
        """Refuse every key that no getter asked for.

        With `extensions`, keys that begin with "x-" are the file's own, as in compose files: for
        YAML's anchors.
        """
        for key in self._values:
            own = extensions and isinstance(key, str) and key.startswith("x-")
            if key not in self._known and not own:
                close = _suggest(key, tuple(self._known)) if isinstance(key, str) else ""
                self.fail(key, f"unknown key{close}")

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def _measure(
        self, key: str, default: int, parse: Callable[[str], int], *, want: str, low: int, high: int
    ) -> int:
        self._known.append(key)
        value = self._values.get(key)
        if value is None:
            return default
        try:
            if isinstance(value, str):
                number = parse(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                number = value
            else:
                raise ValueError("want a text such as '26h' or '10MiB', or a whole number")
        except ValueError as error:
            self.fail(key, f"{_kind(value)}: {error}")
            return default
        if not low <= number <= high:
            self.fail(key, f"{_show(value)} is out of range: want {want}")
            return default
        return number

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
            quotes = kind is str and not isinstance(value, dict | list)
            hint = " (put it in quotes)" if quotes else ""
            self.fail(key, f"want {want}, got {_kind(value)}{hint}")
            return default
        return value


def _kind(value: object) -> str:
    """What a value is, for a message. Mappings and lists are not shown: aliases can make
    a small file's data enormous."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | set | tuple):
        return "a list"
    if value is None:
        return "nothing"
    return _show(value)


def _show(value: object) -> str:
    """A value's repr, cut to a length that fits a line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _suggest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
