"""The report as one self-contained HTML page: no script, no request to anywhere.

Everything that comes from outside (names, messages, the audit log) is escaped by Jinja2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.base.units import format_duration, format_size
from fabfile.monitoring import report_charts

if TYPE_CHECKING:
    from fabfile.base.check import Check
    from fabfile.monitoring.report_data import History

TEMPLATE = Path(__file__).with_name("report.html.j2")
WEEKS = 53
"""Weeks that the calendar shows."""


@dataclass(frozen=True)
class Section:
    """A group of checks. `problem` says why there are none, where nobody could be asked."""

    name: str
    checks: Sequence[Check] = ()
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything in it is well."""
        return not self.problem and all(check.ok for check in self.checks)


@dataclass(frozen=True)
class Report:
    """What the page tells. Releases and audit entries are plain data, the newest first."""

    project: str
    bucket: str
    now: datetime
    who: str
    histories: Sequence[History]
    sections: Sequence[Section]
    services: Sequence[Mapping[str, Any]] = ()
    releases: Sequence[Mapping[str, Any]] = ()
    audit: Sequence[Mapping[str, Any]] = ()
    policy: str = ""
    notes: Sequence[str] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether everything is well, and everything could be asked."""
        good = all(not history.verdict.failed for history in self.histories)
        return good and all(section.ok for section in self.sections)


def render(report: Report) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"duration": format_duration, "size": format_size, "time": _time}
    template = environment.from_string(TEMPLATE.read_text())
    databases = [_database(history) for history in report.histories]
    return template.render(report=report, databases=databases)


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def _database(history: History) -> dict[str, Any]:
    from markupsafe import Markup

    sets, read = history.sets, history.read
    counted = [(one.timestamp, float(one.rows)) for one in read if one.rows is not None]
    took = [(one.timestamp, float(one.manifest.seconds)) for one in read if one.manifest]
    drills = [(one.timestamp, one.proofs["drill"]) for one in read if "drill" in one.proofs]
    charts = [
        report_charts.size(
            [(one.timestamp, float(one.size)) for one in sets],
            [(one.timestamp, float(one.size)) for one in sets if one.timestamp in history.shrunk],
        ),
        report_charts.age([one.timestamp for one in sets], history.verdict.now),
        report_charts.rows(counted),
        report_charts.durations(
            took, [(when, proof.seconds) for when, proof in drills if proof.ok and proof.finished]
        ),
    ]
    titles = ("Size", "Age of the newest backup", "Rows", "Duration of backups and drills")
    return {
        "name": history.verdict.database,
        "verdict": history.verdict,
        "history": history,
        "drills": list(reversed(drills)),
        # Made by us from numbers and dates, names are escaped by the library's XML.
        "charts": [
            (title, Markup(chart))  # noqa: S704 - see above
            for title, chart in zip(titles, charts, strict=True)
            if chart
        ],
        "calendar": _calendar(history),
    }


@dataclass(frozen=True)
class Day:
    """A day of the calendar. `kind` is "kept", "goes", "none", or "" outside the time shown."""

    kind: str
    words: str


def _calendar(history: History) -> list[tuple[str, list[Day]]]:
    """Weeks of seven days, the oldest first, each with the month that begins in it."""
    today = history.verdict.now.date()
    first = min((one.timestamp.date() for one in history.sets), default=today)
    begin = max(first, today - timedelta(weeks=WEEKS))
    begin -= timedelta(days=begin.weekday())
    kept = {}
    for entry in history.kept:
        until = f"until {entry.until:%Y-%m-%d}" if entry.until else "for years"
        kept[entry.backup.timestamp.date()] = f"kept {until} ({', '.join(entry.reasons)})"
    going = {one.timestamp.date() for one in history.going}
    weeks = []
    while begin <= today:
        days = [begin + timedelta(days=n) for n in range(7)]
        month = next((f"{day:%b}" for day in days if day.day == 1), "")
        weeks.append((month, [_day(day, first, today, kept, going) for day in days]))
        begin += timedelta(weeks=1)
    return weeks


def _day(day: Any, first: Any, today: Any, kept: Mapping[Any, str], going: set[Any]) -> Day:
    if day in kept:
        return Day("kept", f"{day}: {kept[day]}")
    if day in going:
        return Day("goes", f"{day}: the next prune may delete it")
    if first <= day < today:
        return Day("none", f"{day}: no backup is left")
    return Day("", "")
