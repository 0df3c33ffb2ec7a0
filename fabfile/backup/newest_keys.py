"""Finding the newest keys of many, in few listings. Pure: the bucket is a function.

A bucket answers "the first 1,000 keys after this one, ascending", never "the last ones".
Keys carry their time, so the search is one on the time line, in three moves:

1. One page from a few backups' worth before now. Nearly always that is all there is.
2. Too much or nothing there: one page in which the bucket groups keys by day (a listing
   with the delimiter "T": up to 1,000 days in one answer). It names the newest day.
3. Pages inside that day, at places worked out from how dense the keys were so far.

What was read is remembered as stretches of time; an answer is given only when everything
from it up to now has been read. So garbage, gaps, bursts and wrong guesses cost pages, never
the right answer.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

from fabfile.backup.object_keys import DAY, END, Keys

GROUP_END = "T"
"""The delimiter that makes one group of a day's keys: it stands between date and time."""

_PAGE = 900
"""Keys aimed at in one page: a little under the 1,000 that fit, since the density is a guess."""
_DAYS = 600
"""Days that fit into one page of groups: 1,000 may, Ceph gives about 620 of dense days."""
_EXAMPLES = 5


@dataclass(frozen=True)
class Page:
    """One answer of the bucket: keys and groups after some key, ascending.

    `grouped` is False where the bucket gave plain keys although groups were asked for.
    `truncated`: there is more behind the last one.
    """

    keys: tuple[str, ...]
    groups: tuple[str, ...] = ()
    truncated: bool = False
    grouped: bool = False


class Lister(Protocol):
    """Asks the bucket for one page."""

    def __call__(self, start_after: str, *, grouped: bool) -> Page:
        """Given a key, return what follows it."""


@dataclass(frozen=True)
class Found:
    """Times of sets, newest first, and what else lay beside them."""

    seconds: tuple[int, ...]
    """Up to now. Every set from the last of them up to now is in here."""
    future: tuple[int, ...]
    """Later than now: some clock is wrong. At least one of them if there is any."""
    others: tuple[str, ...]
    """A few keys that belong to no set."""
    incomplete: tuple[int, ...] = ()
    """Times for which parts of a set were seen, but no manifest. Newest first."""


class _Stretches:
    """Stretches of time [start, reach) that were read; `since`: all read from there on."""

    def __init__(self, end: int) -> None:
        self.since = end
        self._read: list[tuple[int, int]] = []

    def add(self, start: int, reach: int) -> None:
        self._read.append((start, reach))
        self.lower(self.since)

    def lower(self, since: int) -> None:
        """Note that nothing lies between `since` and what was known."""
        self.since = min(self.since, since)
        while True:
            joined = [start for start, reach in self._read if start < self.since <= reach]
            if not joined:
                return
            self.since = min(joined)

    def gap(self, floor: int) -> int:
        """The lowest second from `floor` on that is below `since` and not yet read."""
        reached = [r for _, r in self._read if floor < r < self.since]
        return max(reached, default=floor)


class Search:
    """One search. `page` asks the bucket; `now` and `first` are seconds since 1970.

    Sets later than `now` (which may include some tolerance) are kept apart. The first
    page starts at `first`.
    """

    def __init__(self, page: Lister, keys: Keys, *, now: int, first: int) -> None:
        self.pages = 0
        self._page = page
        self._keys = keys
        self._now = now
        self._first = max(0, first)
        self._sets: set[int] = set()
        self._parts: set[int] = set()
        self._others: dict[str, None] = {}
        self._known = _Stretches(now + 1)
        self._days: set[int] = set()
        self._days_known = _Stretches(now - now % DAY + DAY)
        # The last 600 days first, then from the beginning: if that is not all, backwards.
        self._days_plan = [0, max(0, now - now % DAY - _DAYS * DAY)]
        self._grouping = True
        self._seen_to = now + 1
        self._density = 0.0
        self._barren = 0

    def newest(self, wanted: int, *, patience: int | None = None) -> Found:
        """Find the newest `wanted` sets.

        With `patience`, the search for more than one of them ends after so many pages.
        The newest itself is always found, however many pages that takes.
        """
        if self._read(self._first) <= self._now and self._sets:
            # The page was too small, and the newest day is not older than what it has shown.
            self._days_plan.append(max(self._sets) // DAY * DAY)
        while self._known.since > 0 and len(found := self._found()) < wanted:
            # A search that has not reached the end of the listing owes one more page.
            if found and patience is not None and self.pages + (self._seen_to < END) >= patience:
                break
            self._step(wanted)
        return self._result(self._found()[:wanted])

    def everything(self) -> Found:
        """Find all sets, a page for every 1,000 keys."""
        place = 0
        while place < END:
            place = self._read(place)
        return self._result(self._found())

    def _found(self) -> list[int]:
        return sorted((s for s in self._sets if self._known.since <= s <= self._now), reverse=True)

    def _result(self, found: list[int]) -> Found:
        # Rare: no page reached the end. Is there a set of the future behind them?
        while self._seen_to < END and not any(s > self._now for s in self._sets):
            self._read(self._seen_to)
        future = sorted((s for s in self._sets if s > self._now), reverse=True)
        incomplete = sorted(self._parts - self._sets, reverse=True)
        others = tuple(self._others)[:_EXAMPLES]
        return Found(tuple(found), tuple(future), others, tuple(incomplete))

    def _step(self, wanted: int) -> None:
        """Get one page nearer: of keys if a day is known to have unread ones, else of days."""
        if not self._grouping:
            # Slow and sure: ever wider stretches before what is known, each read through.
            wider = self._known.since - 8 * (self._now + DAY - self._known.since)
            self._read(max(self._known.gap(0), wider))
            return
        while days := self._unread_days():
            # Nothing lies between that day's end and what is known.
            self._known.lower(days[0] + DAY)
            if days[0] < self._known.since:
                self._read(self._place(days, wanted))
                return
        self._known.lower(self._days_known.since)
        if self._known.since > 0:
            self._read_days()

    def _unread_days(self) -> list[int]:
        """Days with keys that were not read yet, newest first, as far as days are known."""
        oldest = self._days_known.since
        return sorted((d for d in self._days if oldest <= d < self._known.since), reverse=True)

    def _place(self, days: list[int], wanted: int) -> int:
        """Where to start the next page, to learn most about the newest unread day."""
        low, high = self._known.gap(days[0]), self._known.since
        if not self._density:
            # Days of nothing but garbage are left behind in ever larger steps.
            return days[: 4**self._barren][-1] if low == days[0] else low
        if self._density * (high - low) <= _PAGE:
            older = [d for d in days[:wanted] if self._density * (high - d) <= _PAGE]
            # Predecessors come along, but never at the risk of not reaching the newest.
            return older[-1] if older and low == days[0] and self._found() else low
        span = int(_PAGE / self._density)
        if high > self._now:
            # Nothing says yet that these backups have stopped: look at the end first.
            return high - max(1, span * 2 // 3)
        return low + (high - low - span) // 2

    def _read_days(self) -> None:
        """Ask for a page of days."""
        start = self._days_known.gap(0)
        if not start and self._days_plan:
            start = self._days_plan.pop()
        else:
            start = max(start, self._days_known.since - _DAYS * DAY)
        self._read(start, grouped=True)

    def _read(self, start: int, *, grouped: bool = False) -> int:
        """Read one page from `start` on; return the first second that it does not cover."""
        # The days' pages start between days: servers differ in what they do inside a group.
        at_midnight = grouped and start % DAY == 0
        after = self._keys.day_start(start) if at_midnight else self._keys.second_start(start)
        while True:
            page = self._page(after, grouped=grouped)
            self.pages += 1
            last = max((*page.keys[-1:], *(group + "~" for group in page.groups[-1:])), default="")
            reach = self._keys.after(last) if page.truncated else END
            self._grouping = self._grouping and page.grouped == grouped
            self._note(page, start, reach)
            if reach > start:
                return reach
            # A whole page of garbage at this very second: go on behind it.
            after = last

    def _note(self, page: Page, start: int, reach: int) -> None:
        """Remember what a page has shown of the time from `start` to `reach`."""
        parsed = {key: self._keys.parse(key) for key in page.keys}
        self._others.update((key, None) for key, found in parsed.items() if found is None)
        if page.grouped:
            groups = (self._keys.day(group) for group in page.groups)
            self._days.update(day for day in groups if day is not None)
            self._days_known.add(start, reach)
            return
        parts = [found for found in parsed.values() if found]
        # The last second of a full page may go on, with its manifest, on the next one.
        self._parts.update(second for second, _ in parts if second < reach)
        sets = {second for second, part in parts if part == "manifest"}
        self._sets |= sets
        if sets:
            # A heap of garbage says nothing about the rhythm of the backups.
            self._measure(page, start, reach)
        elif parsed:
            self._barren += 1
        self._known.add(start, reach)
        if start <= self._seen_to:
            self._seen_to = max(self._seen_to, reach)

    def _measure(self, page: Page, start: int, reach: int) -> None:
        """Work out how many keys there are in a second, in the part that was not known."""
        high = min(reach, self._known.since)
        new = bisect_left(page.keys, self._keys.second_start(high))
        if new:
            first = start if reach >= self._known.since else self._keys.after(page.keys[0])
            self._density = new / max(1, high - first)
