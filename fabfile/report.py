"""Checks and tables -> text for a terminal, or JSON for programs. Returns text, prints nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from fabfile.verify import Check


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
    for row in rows:
        grid.add_row(*row)
    terminal = sys.stdout.isatty()
    # A pipe has no width: never cut what a program or a log will read.
    width = shutil.get_terminal_size().columns if terminal else 10_000
    console = Console(width=width, force_terminal=terminal, highlight=False)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


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
