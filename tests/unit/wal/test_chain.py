"""How far base backups and WAL reach, against a model that plays segments through one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabfile.wal.chain import Base, History, Window, merged, parse_base_manifest, reach
from fabfile.wal.object_keys import (
    Segment,
    next_segment,
    parse_base,
    parse_mark,
    parse_segment,
    stamp,
)

START = datetime(2026, 11, 20, tzinfo=UTC)
SIZE = 2**24
MD5 = "0" * 31 + "a"


def named(number: int) -> str:
    """The segment of a number, in logs of 256."""
    return f"00000001{number // 256:08X}{number % 256:08X}"


def segment(number: int, *, md5: str = MD5, etag: str = "", minute: int | None = None) -> Segment:
    when = START + timedelta(minutes=number if minute is None else minute)
    name = named(number)
    return Segment(name, when, md5, etag or md5, f"wal/7/{name[:16]}/{name}_{stamp(when)}_{md5}.gz")


def base(number: int, *, minute: int | None = None, **more: object) -> Base:
    finished = START + timedelta(minutes=number if minute is None else minute)
    return replace(Base(stamp(finished), finished, named(number), SIZE, 15, 100, 10, 3, ""), **more)


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def test_the_way_goes_on_into_the_next_log():
    assert next_segment("0000000100000000000000FE", SIZE) == "0000000100000000000000FF"
    assert next_segment("0000000100000000000000FF", SIZE) == "000000010000000100000000"
    assert next_segment("000000010000000000000003", 2**30) == "000000010000000100000000"
    found = reach(base(250), [segment(n) for n in range(250, 300)])
    assert (found.until, found.flaw, found.segments) == (at(299), "", 50)


def test_a_missing_segment_ends_the_way_before_it():
    there = [segment(n) for n in range(5, 20) if n != 11]
    found = reach(base(5), there)
    assert (found.until, found.segments) == (at(10), 6)
    assert found.flaw == f"segment {named(11)} is missing"


def test_the_first_one_is_needed_too():
    found = reach(base(5), [segment(6)])
    assert (found.until, found.flaw, found.segments) == (at(5), f"segment {named(5)} is missing", 0)
    assert reach(base(5), []).flaw == f"segment {named(5)} is missing"


def test_an_object_that_was_changed_ends_the_way_before_it():
    there = [segment(5), segment(6, etag="0" * 32), segment(7)]
    found = reach(base(5), there)
    assert found.until == at(5)
    assert "is not what was uploaded" in found.flaw


def test_what_went_up_in_parts_or_encrypted_has_no_md5_to_compare():
    assert reach(base(5), [segment(5, etag="0" * 32 + "-2")]).flaw == ""


def test_the_same_object_twice_is_one_and_another_of_its_name_is_two_servers():
    twice = [segment(5), segment(5, minute=6), segment(6)]
    assert reach(base(5), twice).flaw == ""
    other = [segment(5), segment(5, md5="b" * 32), segment(6)]
    found = reach(base(5), other)
    assert "two servers archive as one cluster" in found.flaw
    assert (found.segments, found.whole) == (0, False)
    later = [segment(5), segment(6), segment(6, md5="b" * 32), segment(7)]
    found = reach(base(5), later)
    # Which of the two is ours, nobody knows: neither counts.
    assert (found.segments, found.until) == (1, at(5))


@given(
    st.sets(st.integers(0, 60)),
    st.sets(st.integers(0, 60), max_size=5),
)
def test_windows_are_what_can_be_replayed(numbers, bases):
    """For each minute: a base backup that had ended by then, and every segment from it on."""
    there = [segment(number) for number in sorted(numbers)]
    history = History("7", "", tuple(base(b) for b in sorted(bases, reverse=True)), tuple(there))
    possible = set()
    for one in bases:
        number = one
        while number in numbers:
            possible.add(number)
            number += 1
    windows = history.windows()
    found = {m for m in range(61) if any(w.start <= at(m) <= w.end for w in windows)}
    assert found == possible
    assert windows == sorted(windows, key=lambda w: w.start, reverse=True)


def test_windows_that_touch_are_one():
    one, two, three = Window(at(0), at(5)), Window(at(5), at(9)), Window(at(11), at(12))
    assert merged([three, two, one]) == [three, Window(at(0), at(9))]


@pytest.mark.parametrize(
    "name",
    [
        f"0000000100000000/{named(1)}_20261120T000100Z_{MD5}.gz.tmp",
        f"0000000100000000/{named(1)}_20261320T000100Z_{MD5}.gz",
        f"{named(1)}_20261120T000100Z_{MD5}.gz",
        "0000000100000000/x",
    ],
)
def test_what_is_no_segment(name):
    assert parse_segment(name, "", name) is None


def test_names():
    name = f"0000000100000000/{named(1)}_20261120T000100Z_{MD5}.gz"
    found = parse_segment(name, f'"{MD5}"', f"wal/7/{name}")
    assert found
    assert found.intact
    assert found.until == at(1)
    assert parse_base("base_20261120T000000Z.tar.gz") == ("20261120T000000Z", "tar.gz")
    assert parse_base("base_x.json") is None
    mark = parse_mark("mark_a_b_20261120T000000Z.json")
    assert mark
    assert (mark.name, mark.time) == ("a_b", START)
    assert parse_mark("mark_a_20269920T000000Z.json") is None


MANIFEST = {
    "format": 1, "cluster": "7", "project": {"name": "", "id": "ab"},
    "finished": "20261120T000010Z",
    "segment": named(3), "segment_bytes": SIZE, "server_version_num": 150020, "size": 100,
    "bytes": 10, "seconds": 3,
}  # fmt: skip


def test_a_manifest_is_read_with_distrust():
    found = parse_base_manifest(json.dumps(MANIFEST), "20261120T000000Z", "7")
    assert (found.segment, found.major, found.stored, found.project_id) == (named(3), 15, 10, "ab")
    for change in (
        {"format": 2},
        {"cluster": "8"},
        {"finished": "yesterday"},
        {"segment": 3},
        {"size": -1},
        {"bytes": True},
    ):
        with pytest.raises(ValueError, match=r"manifest|time data"):
            parse_base_manifest(json.dumps(MANIFEST | change), "20261120T000000Z", "7")
    for name in set(MANIFEST) - {"project"}:
        less = {key: value for key, value in MANIFEST.items() if key != name}
        with pytest.raises(ValueError, match="manifest"):
            parse_base_manifest(json.dumps(less), "20261120T000000Z", "7")


def test_a_base_backup_needs_all_wal_that_was_written_while_it_was_made():
    long = base(5, minute=9)
    history = History("7", "", (long,), tuple(segment(n) for n in range(5, 9)))
    assert not history.reach(long).whole
    assert history.windows() == []
    history = replace(history, segments=tuple(segment(n) for n in range(5, 10)))
    assert history.windows() == [Window(at(9), at(9))]
