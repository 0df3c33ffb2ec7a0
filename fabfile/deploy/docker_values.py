"""Values of compose files as Docker's client reads them: Go's way, not Python's. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any


class CannotCompareError(Exception):
    """A value in a form whose meaning is not known here."""


_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9,
          "m": 60 * 10**9, "h": 3600 * 10**9}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)


def nanoseconds(value: Any) -> int:
    """Given a duration as Go writes it ("1m30s", "0"), return nanoseconds; ValueError otherwise."""
    text = str(value).removeprefix("+")
    if text == "0":
        return 0
    found = _DURATION.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise ValueError(text)
    return sum(int(Decimal(number) * _UNITS[unit]) for number, unit in found)


def size(value: Any) -> int:
    """Bytes from Docker's sizes: a number with b, k, m, g, t or p, each 1024 times the last."""
    match = _SIZE.fullmatch(str(value))
    if not match:
        raise ValueError(value)
    power = " kmgtp".index(match[2].lower() or " ")
    return int(Decimal(match[1]) * 1024**power)


def nano_cpus(value: Any) -> int:
    """A number of CPUs as thousand-millionths."""
    return int(Fraction(str(value)) * 10**9)


def text(value: Any) -> str:
    """A scalar as Go prints it: 1.50 is "1.5", 3.0 is "3", nothing is ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _float(value)
    if not isinstance(value, str | int):
        raise CannotCompareError(value)
    return str(value)


def _float(value: float) -> str:
    """Go's %v: the shortest digits, with an exponent below 1e-4 and from 1e21 on."""
    if not math.isfinite(value):
        return {"inf": "+Inf", "-inf": "-Inf"}.get(str(value), "NaN")
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    scale = len(digits) + exponent - 1
    if value == 0 or -5 < scale < 21:
        plain = format(Decimal(repr(value)).normalize(), "f")
        return "-0" if plain == "-0" else plain
    first, *rest = (str(digit) for digit in digits)
    point = "." + "".join(rest) if rest else ""
    return f"{'-' if value < 0 else ''}{first}{point}e{'-' if scale < 0 else '+'}{abs(scale):02}"


def labels(value: Any) -> dict[str, str]:
    """A mapping, or a list of name=value, as a mapping of texts."""
    if isinstance(value, Mapping):
        return {str(key): text(item) for key, item in value.items()}
    return dict(str(item).partition("=")[::2] for item in value)


def strings(value: Any) -> list[str]:
    """One text, or a list of them, as a list."""
    return [value] if isinstance(value, str) else [str(item) for item in value]


def flag(value: Any) -> bool:
    """A truth value; Docker refuses everything else."""
    if not isinstance(value, bool):
        raise CannotCompareError(value)
    return value


def words(value: Any) -> list[str]:
    """A command as its words: a list as it is, a text as Docker's client splits it.

    Unlike a shell (and Python's shlex), a backslash between double quotes takes any character
    as it is, and # begins a comment only where a word would. See github.com/google/shlex.
    """
    if not isinstance(value, str):
        return [str(word) for word in value]
    found: list[str] = []
    characters = iter(value)
    for character in characters:
        if character in " \t\r\n":
            continue
        if character == "#":
            _skip_line(characters)
        else:
            found.append(_word(character, characters))
    return found


def _skip_line(characters: Iterator[str]) -> None:
    for character in characters:
        if character == "\n":
            return


def _word(first: str, characters: Iterator[str]) -> str:
    word = ""
    character: str | None = first
    while character is not None and character not in " \t\r\n":
        if character == "\\":
            word += _must(characters)
        elif character in "'\"":
            word += _quoted(character, characters)
        else:
            word += character
        character = next(characters, None)
    return word


def _quoted(quote: str, characters: Iterator[str]) -> str:
    inside = ""
    while (character := _must(characters)) != quote:
        inside += _must(characters) if character == "\\" and quote == '"' else character
    return inside


def _must(characters: Iterator[str]) -> str:
    """The next character; Docker refuses a text that ends here."""
    character = next(characters, None)
    if character is None:
        raise CannotCompareError("unfinished quotes")
    return character
