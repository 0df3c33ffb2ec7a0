"""The search for the newest: always right, and within its budget of pages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabfile.backup.newest_keys import GROUP_END, Page, Search
from fabfile.backup.object_keys import DAY, EPOCH, PARTS, Keys

pytestmark = pytest.mark.thorough

KEYS = Keys("nocodb")
NOW = int((datetime(2026, 11, 22, 9, tzinfo=UTC) - EPOCH).total_seconds())
WEEK = 7 * DAY
YEAR = 365 * DAY
MANY = 100_000


class Listing:
    """A bucket's listing: sorted keys, a page at a time, grouped on request."""

    def __init__(self, keys, *, grouping=True, page_size=1000):
        self.keys = sorted(keys)
        self.grouping = grouping
        self.page_size = page_size
        self.asked = []

    def __call__(self, start_after, *, grouped):
        self.asked.append(start_after)
        place = bisect_right(self.keys, start_after)
        if not (grouped and self.grouping):
            keys = tuple(self.keys[place : place + self.page_size])
            return Page(keys, truncated=place + self.page_size < len(self.keys))
        keys, groups = [], []
        while place < len(self.keys) and len(keys) + len(groups) < self.page_size:
            key = self.keys[place]
            end = key.find(GROUP_END, len(KEYS.prefix))
            if end < 0:
                keys.append(key)
                place += 1
            else:
                groups.append(key[: end + 1])
                place = bisect_right(self.keys, groups[-1] + "\U0010ffff")
        return Page(tuple(keys), tuple(groups), place < len(self.keys), grouped=True)


class Dumps:
    """The same for nothing but dumps, from their times: it makes only the keys asked for."""

    def __init__(self, seconds):
        self.seconds = sorted(seconds)
        self.asked = []

    def __call__(self, start_after, *, grouped):
        self.asked.append(start_after)
        place = bisect_left(self.seconds, KEYS.after(start_after))
        if not grouped:
            keys = tuple(map(KEYS.of, self.seconds[place : place + 1000]))
            return Page(keys, truncated=place + 1000 < len(self.seconds))
        groups = []
        while place < len(self.seconds) and len(groups) < 1000:
            second = self.seconds[place]
            groups.append(KEYS.day_start(second) + GROUP_END)
            place = bisect_left(self.seconds, second - second % DAY + DAY)
        return Page((), tuple(groups), place < len(self.seconds), grouped=True)


def search(listing, *, window=8 * 26 * 3600, wanted=8, patience=4):
    found = Search(listing, KEYS, now=NOW, first=NOW - window).newest(wanted, patience=patience)
    return found, len(listing.asked)


def every(interval, *, ended=0, count=MANY):
    """Times of backups made at an interval (seconds), the last one `ended` seconds ago."""
    return [s for i in range(count) if (s := NOW - ended - i * interval) > 0]


def garbage(pattern, count):
    return [KEYS.prefix + pattern.format(i) for i in range(count)]


# --- right, whatever is there ---------------------------------------------------------------

moments = st.one_of(
    st.integers(NOW - 2 * DAY, NOW + 2 * DAY),
    st.integers(NOW - YEAR, NOW),
    st.integers(0, NOW + 100 * YEAR),
)
bursts = st.tuples(moments, st.integers(1, 90), st.integers(1, 2500)).map(
    lambda b: range(b[0], b[0] + b[1] * b[2], b[1])
)
litter = st.tuples(
    st.sampled_from(
        [
            "2026garbage{}",
            "zzz{}",
            "old/{}",
            "20261399T000000Z.dump.gz{}",
            "20261121T021500Z.dump.g{}",
            "20261121T021500Z.dump.gz.{}",
            "20261122T{}",
            "T{}",
            "{}",
            "00000000T{}",
            "20261121T021500Z.manifest.json{}",
        ]
    ),
    st.sampled_from([1, 3, 1500]),
).map(lambda g: garbage(*g))


@settings(max_examples=50, deadline=None)
@given(
    singles=st.lists(moments, max_size=12),
    crowds=st.lists(bursts, max_size=3),
    rubbish=st.lists(litter, max_size=3),
    grouping=st.booleans(),
    page_size=st.sampled_from([1000, 1000, 600, 150]),
    window=st.sampled_from([60, DAY, 9 * DAY, 400 * DAY]),
    wanted=st.sampled_from([1, 8, 2000]),
    patience=st.sampled_from([4, None]),
)
def test_finds_the_newest_of_anything(
    singles, crowds, rubbish, grouping, page_size, window, wanted, patience
):
    seconds = {*singles, *(s for crowd in crowds for s in crowd)}
    keys = [KEYS.of(s) for s in seconds] + [key for heap in rubbish for key in heap]
    listing = Listing(set(keys), grouping=grouping, page_size=page_size)
    found, _ = search(listing, window=window, wanted=wanted, patience=patience)
    truth = sorted((s for s in seconds if s <= NOW), reverse=True)
    assert found.seconds == tuple(truth[: len(found.seconds)])
    assert len(found.seconds) >= min(1, len(truth))
    if patience is None:
        assert len(found.seconds) == min(wanted, len(truth))
    assert bool(found.future) == any(s > NOW for s in seconds)
    assert set(found.future) <= seconds


ALL = frozenset(PARTS)
some_parts = st.one_of(
    st.just(ALL),
    st.just(ALL - {"deep", "drill"}),
    st.just(ALL - {"manifest"}),
    st.frozensets(st.sampled_from(sorted(PARTS)), min_size=1),
)


@settings(max_examples=60, deadline=None)
@given(
    heaps=st.lists(st.tuples(bursts, some_parts), max_size=4),
    grouping=st.booleans(),
    # Sets of up to five keys fall across the ends of pages wherever they can.
    page_size=st.sampled_from([1000, 150, 7]),
    window=st.sampled_from([60, DAY, 9 * DAY]),
    wanted=st.sampled_from([1, 8, 2000]),
    patience=st.sampled_from([4, None]),
)
def test_finds_the_newest_of_whole_and_torn_sets(
    heaps, grouping, page_size, window, wanted, patience
):
    parts: dict[int, frozenset[str]] = {}
    for seconds, names in heaps:
        # A page of 7 keys is for a few sets, not for thousands.
        for second in list(seconds)[: 40 if page_size == 7 else None]:
            parts[second] = parts.get(second, frozenset()) | names
    keys = [KEYS.part(second, name) for second, names in parts.items() for name in names]
    listing = Listing(keys, grouping=grouping, page_size=page_size)
    found, _ = search(listing, window=window, wanted=wanted, patience=patience)
    truth = sorted((s for s in parts if "manifest" in parts[s] and s <= NOW), reverse=True)
    assert found.seconds == tuple(truth[: len(found.seconds)])
    assert len(found.seconds) >= min(1, len(truth))
    if patience is None:
        assert len(found.seconds) == min(wanted, len(truth))
    torn = {s for s in parts if "manifest" not in parts[s]}
    assert set(found.incomplete) <= torn
    # What came after the newest set, and was cut off, is always seen.
    if truth:
        assert {s for s in torn if truth[0] < s <= NOW} <= set(found.incomplete)


@settings(max_examples=10, deadline=None)
@given(crowds=st.lists(bursts, max_size=4), rubbish=st.lists(litter, max_size=2))
def test_everything_is_everything(crowds, rubbish):
    seconds = {s for crowd in crowds for s in crowd}
    listing = Listing({*map(KEYS.of, seconds), *(key for heap in rubbish for key in heap)})
    found = Search(listing, KEYS, now=NOW, first=NOW).everything()
    assert sorted({*found.seconds, *found.future}) == sorted(seconds)
    # The keys around one second, where rubbish may crowd, can fall into two pages.
    assert len(listing.asked) <= len(listing.keys) // 1000 + 1 + len(rubbish)


# --- cheap: with the HEAD for the newest, five requests are four pages ------------------------


@pytest.mark.parametrize(
    ("interval", "ended"),
    [
        (interval, ended)
        for interval in (60, 90, 600, 3600, DAY)
        for ended in (0, 5 * 3600, 30 * 3600, 82 * 3600, 9 * DAY, 41 * DAY + 7000, 590 * DAY)
    ],
)
def test_four_pages_find_the_newest_of_100000(interval, ended):
    seconds = every(interval, ended=ended)
    found, pages = search(Dumps(seconds))
    assert found.seconds[0] == NOW - ended
    assert pages <= 4


@settings(max_examples=8, deadline=None)
@given(
    interval=st.integers(60, 2 * DAY),
    ended=st.integers(0, 590 * DAY),
    jitter=st.integers(0, 29),
)
def test_four_pages_find_the_newest_of_100000_at_any_rhythm(interval, ended, jitter):
    seconds = {s - (s * 7919) % (jitter + 1) for s in every(interval, ended=ended)}
    found, pages = search(Dumps(seconds))
    assert found.seconds[0] == max(seconds)
    assert pages <= 4


ODD = {
    "one recent, then years of hourly ones": [NOW - 3600, *every(3600, ended=30 * DAY)],
    "rhythm became faster": [*every(60, count=50_000), *every(DAY, ended=40 * DAY, count=3000)],
    "rhythm became slower": [*every(DAY, count=40), *every(60, ended=40 * DAY)],
    "long gaps between bursts": [
        s for i in range(50) for s in every(60, ended=i * WEEK + DAY, count=1000)
    ],
    "more and more": [NOW - 100 - i * i // 40 for i in range(MANY)],
    "all within the first window, then silence": every(6, ended=0),
    "every second of today up to now": every(1, count=30_000),
    "just one": [NOW - 10],
    "just one, years ago": [NOW - 5 * YEAR],
}


@pytest.mark.parametrize("name", ODD)
def test_four_pages_do_for_odd_distributions(name):
    found, pages = search(Dumps(set(ODD[name])))
    assert found.seconds[0] == max(ODD[name])
    assert pages <= 4


@pytest.mark.parametrize(
    "rubbish",
    [
        garbage("zzz{:05}", 50_000),
        garbage("2026garbage{:05}", 50_000),
        garbage("20261122T0859garbage{:05}", 50_000),
        garbage("0{:05}-old", 50_000),
        [k for s in every(DAY, count=1000) for k in (KEYS.of(s) + ".sha256", KEYS.of(s)[:-8])],
    ],
    ids=["behind all", "behind this year", "of this minute", "before all", "two beside each"],
)
@pytest.mark.parametrize("ended", [0, 20 * DAY])
def test_four_pages_do_with_a_flood_of_garbage(rubbish, ended):
    seconds = every(DAY, ended=ended, count=700)
    found, pages = search(Listing([*map(KEYS.of, seconds), *rubbish]))
    assert found.seconds[0] == seconds[0]
    assert pages <= 4


def test_names_a_few_of_the_keys_that_are_no_dumps():
    found, _ = search(Listing([KEYS.of(NOW - 10), *garbage("zzz{}", 9)]))
    assert found.others == tuple(garbage("zzz{}", 5))


def test_one_page_is_all_in_a_usual_bucket():
    found, pages = search(Listing(map(KEYS.of, every(DAY, ended=5000, count=3000))))
    assert pages == 1
    assert len(found.seconds) == 8


def test_three_pages_show_that_there_is_nothing():
    found, pages = search(Listing([]))
    assert pages == 3
    assert found.seconds == found.future == found.others == ()


def test_a_backup_every_second_that_stopped_costs_more_pages_but_is_found():
    # A day of them has 86 pages; that one cannot ask for the last one costs a bisection.
    seconds = every(1, ended=41 * DAY + 12_345)
    found, pages = search(Dumps(seconds))
    assert found.seconds[0] == seconds[0]
    assert pages <= 10


def test_without_grouping_it_is_slower_and_as_right():
    seconds = every(3600, ended=20 * DAY, count=5000)
    found, pages = search(Listing(map(KEYS.of, seconds), grouping=False))
    assert found.seconds[0] == seconds[0]
    assert pages <= 4


def test_future_dumps_are_kept_apart():
    seconds = [NOW + 3600, NOW - 3600, NOW - 2 * DAY]
    found, _ = search(Listing(map(KEYS.of, seconds)))
    assert found.seconds == (NOW - 3600, NOW - 2 * DAY)
    assert found.future == (NOW + 3600,)


# --- keys --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 8000 * YEAR))
def test_keys_carry_their_time(second):
    key = KEYS.of(second)
    assert KEYS.parse(key) == (second, "manifest")
    assert all(KEYS.parse(KEYS.part(second, part)) == (second, part) for part in PARTS)
    assert KEYS.after(key) == second + 1
    assert KEYS.second_start(second) < key
    assert KEYS.day_start(second) < key
    assert KEYS.day(key[: key.index(GROUP_END, len(KEYS.prefix)) + 1]) == second - second % DAY


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.integers(0, 100 * YEAR))
def test_after_names_the_first_key_behind_any_string(text, second):
    key = KEYS.of(second)
    for name in (KEYS.prefix + text, key[:30] + text):
        following = KEYS.after(name)
        assert KEYS.of(following) > name if following < KEYS.after("~") else True
        assert following == 0 or KEYS.of(following - 1) <= name


@pytest.mark.parametrize(
    "name",
    [
        "backup_20261122T021500Z.dump",
        "backup_20261122T021500Z.dump.gz.partial",
        "backup_20261322T021500Z.dump.gz",
        "backup_20261122T245900Z.dump.gz",
        "backup_20260230T000000Z.dump.gz",
        "backup_\N{ARABIC-INDIC DIGIT TWO}0261122T021500Z.dump.gz",
        "backup_20261122T021500Z.dump.gz\n",
        "backup_zzz",
        "backup_",
        "Backup_20261122T021500Z.dump.gz",
    ],
)
def test_what_is_no_dump_of_a_real_moment_has_no_time(name):
    assert KEYS.parse(KEYS.folder + name) is None
    assert KEYS.parse(name) is None
