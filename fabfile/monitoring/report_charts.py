"""The charts of the report page, as SVG that stands in the page: made by pygal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from xml.etree import ElementTree

from fabfile.base.units import format_duration, format_size

Points = Sequence[tuple[datetime, float]]

MOST = 400
"""Points of a line: more than that are not told apart on a screen, and make the page large."""
DOTS = 60
"""Lines of more points are drawn without dots."""
COLOURS = ("#1a7f9c", "#b4541a", "#6b6f76")
"""Told apart in light and dark, and by who sees no red and green."""


def size(points: Points, shrunk: Points) -> str:
    """Size of the dump over time; the ones that shrank are marked."""
    marked = ("much smaller than before", shrunk, False)
    lines = [("size of the dump", thinned(points), True), marked]
    return _chart("Size of the dump over time", lines, lambda value: format_size(int(value)))


def rows(points: Points) -> str:
    """Rows of all tables over time."""
    return _chart("Rows in all tables over time", [("rows", thinned(points), True)], _number)


def durations(backups: Points, drills: Points) -> str:
    """How long backups and drills took."""
    lines = [("backup", thinned(backups), True), ("drill", thinned(drills), True)]
    return _chart("Duration of backups and drills", lines, format_duration)


def age(times: Sequence[datetime], now: datetime, weeks: int = 6) -> str:
    """Age of the newest set over the last weeks: it grows until the next one comes, so that a
    night without a backup is a peak.
    """
    if not times:
        return ""
    begin = now - timedelta(weeks=weeks)
    points: list[tuple[datetime, float]] = []
    for before, after in zip(times, [*times[1:], now], strict=True):
        if after < begin:
            continue
        start = max(before, begin)
        points.append((start, (start - before).total_seconds()))
        points.append((after, (after - before).total_seconds()))
    title = f"Age of the newest backup over the last {weeks} weeks"
    return _chart(title, [("age", points, True)], format_duration)


def thinned(points: Points) -> Points:
    """At most MOST of the points: the first, the last and an even choice of the others."""
    if len(points) <= MOST:
        return points
    step = -(-len(points) // MOST)
    return [*points[:-1][::step], points[-1]]


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _chart(
    title: str, lines: Sequence[tuple[str, Points, bool]], words: Callable[[float], str]
) -> str:
    """`lines` are names, points, and whether they are joined. "" where there is nothing to draw."""
    import pygal
    from pygal.style import Style

    shown = [line for line in lines if line[1]]
    if sum(len(points) for _, points, _ in shown) < 2:
        return ""
    style = Style(
        background="transparent", plot_background="transparent", colors=COLOURS,
        foreground="currentColor", foreground_strong="currentColor",
        foreground_subtle="currentColor", font_family="inherit", label_font_size=12,
        major_label_font_size=12, legend_font_size=13, opacity="1", opacity_hover="1",
    )  # fmt: skip
    chart = pygal.DateTimeLine(
        style=style, js=[], width=760, height=240, show_legend=len(shown) > 1,
        legend_at_bottom=True, show_y_guides=True, show_x_guides=False, dots_size=3,
        x_label_rotation=0, truncate_label=-1, range=None, include_x_axis=True,
        x_labels=_days(shown), x_value_formatter=_date_words(shown), margin_right=40,
        value_formatter=words, y_labels_major_count=3, show_minor_y_labels=False,
    )  # fmt: skip
    for name, points, joined in shown:
        chart.add(name, list(points), stroke=joined, show_dots=not joined or len(points) <= DOTS)
    return _as_part_of_a_page(chart.render_tree(), title)


def _date_words(lines: Sequence[tuple[str, Points, bool]]) -> Callable[[datetime], str]:
    """How a time is written: of a few days with the hour."""
    times = [when for _, points, _ in lines for when, _ in points]
    form = "%Y-%m-%d" if max(times) - min(times) > timedelta(days=4) else "%b %d, %H:%M"
    return lambda when: when.strftime(form)


def _days(lines: Sequence[tuple[str, Points, bool]]) -> list[datetime]:
    """A few days for the axis."""
    times = sorted(when for _, points, _ in lines for when, _ in points)
    begin, span = times[0], times[-1] - times[0]
    return [begin + span * part / 4 for part in range(5)] if span else [begin]


def _as_part_of_a_page(root: Any, title: str) -> str:
    """The drawing alone: without scripts and links to elsewhere, and told to screen readers."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.rpartition("}")[2] == "script":
                parent.remove(child)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
