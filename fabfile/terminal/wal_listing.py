"""How backup.list shows base backups, WAL and marks: as text, as data."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fabfile.wal.chain import History

_SHOWN = 20
"""Base backups and marks, the newest ones."""


def text(history: History | None, now: datetime) -> str:
    """From when to when one can go, base backups, marks."""
    from fabfile.base.units import format_duration, format_size
    from fabfile.terminal.restore_dialog import spoken_window
    from fabfile.terminal.tables import plain, table

    if history is None or not history.bases:
        return "no base backup with WAL is in the bucket: only sets can be restored"
    lines = [history.place]
    rows = [
        [
            plain(base.stamp),
            format_duration(max(0.0, (now - base.finished).total_seconds())),
            format_size(base.stored) + (", incremental" if base.parent else ""),
            f"PostgreSQL {base.major}" if base.major else "",
            plain(base.flaw or history.reach(base).flaw or "leads to now"),
        ]
        for base in history.bases[:_SHOWN]
    ]
    lines.append(table(["base backup", "age", "size", "of", "its WAL"], rows))
    for window in history.windows():
        lines.append(f"any second between {spoken_window(window)}: inv backup.restore --at TIME")
    for mark in history.marks[:_SHOWN]:
        when = f"{mark.time:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(f"mark {plain(mark.name)}, {when}: inv backup.restore --at-mark {mark.name}")
    return "\n".join(lines)


def data(history: History) -> dict[str, Any]:
    """The same for programs. Times are UTC, ISO 8601, sizes bytes."""
    return {
        "cluster": history.cluster,
        "place": history.place,
        "windows": [
            {"start": window.start.isoformat(), "end": window.end.isoformat()}
            for window in history.windows()
        ],
        "bases": [
            {
                "base": base.stamp,
                "finished": base.finished.isoformat(),
                "bytes": base.stored,
                "major": base.major,
                "parent": base.parent,
                "flaw": base.flaw or history.reach(base).flaw,
            }
            for base in history.bases
        ],
        "marks": [{"name": mark.name, "time": mark.time.isoformat()} for mark in history.marks],
        "segments": len(history.segments),
    }
