"""What verify says of base backups and WAL."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from fabfile.wal.chain import History, Replay, parse_replay
from fabfile.wal.judge import SLACK, WalExpectations, judge
from tests.unit.wal.test_chain import at, base, named, segment

EXPECTED = WalExpectations(60, 3600)
GOOD = History("7", "", (base(10),), tuple(segment(n) for n in range(10, 30)))
NOW = at(29) + timedelta(seconds=40)


def failed(history, now=NOW):
    return {check.name: check for check in judge(EXPECTED, history, now) if not check.ok}


def test_all_is_well():
    checks = judge(EXPECTED, GOOD, NOW)
    assert [check.name for check in checks] == ["wal", "chain", "base", "replayed"]
    assert all(check.ok for check in checks)
    assert checks[0].detail == "every commit up to 40s ago is in the bucket"
    assert checks[1].detail.startswith("no gap in 20 segments since base backup ")


@pytest.mark.parametrize("history", [None, History("7", "")])
def test_nothing_is_there(history):
    assert list(failed(history)) == ["wal"]


def test_nothing_was_uploaded_for_longer_than_three_ticks():
    late = at(29) + timedelta(seconds=3 * 60 + SLACK)
    assert failed(GOOD, late) == {}
    assert list(failed(GOOD, late + timedelta(seconds=1))) == ["wal"]


def test_a_time_in_the_future_is_a_wrong_clock():
    assert "in the future" in failed(GOOD, at(20))["wal"].detail


def test_a_gap_is_seen_though_the_newest_segment_is_young():
    there = tuple(one for one in GOOD.segments if one.name != named(15))
    found = failed(replace(GOOD, segments=there))
    assert list(found) == ["chain"]
    assert found["chain"].detail.endswith(
        f"leads to 2026-11-20 00:14:00 UTC only: segment {named(15)} is missing"
    )


def test_a_gap_before_the_newest_base_backup_matters_no_more():
    there = tuple(one for one in GOOD.segments if one.name != named(15))
    assert failed(replace(GOOD, bases=(base(20), base(10)), segments=there)) == {}


def test_a_base_backup_that_was_made_just_now_needs_no_wal_yet():
    young = base(30, minute=29)
    assert failed(replace(GOOD, bases=(young, base(10)))) == {}
    # One alone leads nowhere yet.
    assert list(failed(replace(GOOD, bases=(young,)))) == ["chain"]


def test_base_backups_that_are_damaged_or_old():
    flawed = replace(base(10), flaw="its object has 3 bytes, its manifest says 10")
    found = failed(replace(GOOD, bases=(flawed,)))
    assert list(found) == ["chain", "base"]
    assert "its object has 3 bytes" in found["chain"].detail
    history = replace(GOOD, segments=tuple(segment(n) for n in range(10, 200)))
    assert list(failed(history, at(199) + timedelta(seconds=5))) == ["base"]


def test_a_drill_that_failed_and_one_that_is_old():
    good = Replay(True, at(20), 12, "20261120T001900Z", "")
    assert failed(replace(GOOD, replay=good)) == {}
    found = failed(replace(GOOD, replay=replace(good, ok=False, reason="no luck")))
    assert list(found) == ["replayed"]
    assert "no luck" in found["replayed"].detail
    strict = replace(EXPECTED, max_drill_age=600)
    for history, ok in ((GOOD, False), (replace(GOOD, replay=good), True)):
        [check] = [one for one in judge(strict, history, NOW) if one.name == "replayed"]
        assert check.ok is ok
    later = [one for one in judge(strict, replace(GOOD, replay=good), at(31)) if not one.ok]
    assert [one.name for one in later] == ["replayed"]


def test_an_outcome_is_read_with_distrust():
    text = {"format": 1, "outcome": "ok", "finished": "2026-11-20T00:00:00Z", "seconds": 3}
    assert parse_replay(json.dumps(text)).ok
    for change in (
        {"format": 2},
        {"finished": "x"},
        {"finished": "2026-11-20T00:00:00"},
        {"seconds": "3"},
    ):
        with pytest.raises(ValueError):
            parse_replay(json.dumps(text | change))
