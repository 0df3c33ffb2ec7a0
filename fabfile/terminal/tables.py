"""Checks and tables -> text for a terminal, or JSON for programs. Returns text, prints nothing."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from fabfile.base.check import Check

_SHORT = 24
"""Characters up to which a column's cells stay in one line."""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> str:
    """Given column headers and rows of cells, return an aligned table.

    Cells may use rich's markup; text from outside must go through `plain` first.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(
        *headers, box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left"
    )
    # Nothing is cut off: what is short keeps its line as long as there is room for the rest of
    # them, what is long is folded.
    sizes = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    room = sum(size for size in sizes if size <= _SHORT) <= _width() * 2 // 3
    for column, size in zip(grid.columns, sizes, strict=False):
        column.overflow = "fold"
        column.no_wrap = room and size <= _SHORT
    for row in rows:
        grid.add_row(*row)
    terminal = sys.stdout.isatty()
    # With a height, rich takes the width from us even on a dumb terminal.
    console = Console(width=_width(), height=25, force_terminal=terminal, highlight=False)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def entries(items: Sequence[tuple[Sequence[str], Sequence[str]]]) -> str:
    """Given entries, each a few short words and lines about it, return the words in columns with
    the lines below, indented, broken between words where the terminal is narrow.
    """
    width = _width()
    columns = [max(map(len, cells)) for cells in zip(*(words for words, _ in items), strict=True)]
    fits = sum(columns) + 2 * (len(columns) - 1) <= width
    lines = []
    for words, notes in items:
        cells = [word.ljust(size) for word, size in zip(words, columns, strict=True)]
        head = "  ".join(cells).rstrip() if fits else " ".join(filter(None, words))
        lines += _wrapped(head, width, "", "  ")
        for note in notes:
            lines += _wrapped(note, width, "    ", "      ")
    return "\n".join(lines)


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width() -> int:
    """The terminal's columns. A pipe has no width: never cut what a program or a log will read."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def printable(text: str) -> str:
    """Given text from outside, return it with control characters made harmless, for no table."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain(text: str) -> str:
    """Given text from outside, return it with markup and control characters made harmless."""
    from rich.markup import escape

    # An object's key may hold escape sequences; a terminal must not obey them.
    return escape(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def checks(results: Sequence[Check]) -> str:
    """Given checks, return a table of verdicts, each failure with its hint below."""
    rows = []
    for check in results:
        verdict = "[green]ok[/]" if check.ok else "[red]FAILED[/]"
        rows.append([verdict, plain(check.name), plain(check.detail)])
        if not check.ok and check.hint:
            rows.append(["", "", plain(f"next: {check.hint}")])
    return table(["", "check", "found"], rows)


def checks_data(results: Sequence[Check], **more: Any) -> dict[str, Any]:
    """Given checks and further top-level fields, return them as plain data."""
    items = [
        {"name": c.name, "ok": c.ok, "detail": c.detail, "hint": "" if c.ok else c.hint}
        for c in results
    ]
    return {"ok": all(c.ok for c in results), **more, "checks": items}


def checks_json(results: Sequence[Check], **more: Any) -> str:
    """The same as one JSON document."""
    return to_json(checks_data(results, **more))


def to_json(value: Any) -> str:
    """Given plain data, return it as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)
