"""Which sets stay: examples to read, and invariants that hold whatever lies in the bucket."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabfile.backup.object_keys import EPOCH, Keys
from fabfile.backup.retention import FUTURE, decide
from fabfile.backup.sets import BackupSet, Manifest, Proof, Recorded
from fabfile.config.backup import Retention
from fabfile.s3.objects import Part

pytestmark = pytest.mark.thorough

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
DAY = timedelta(days=1)
GOOD, BAD = Proof(True, "2026-11-20T03:00:00Z", 9), Proof(False, "2026-11-20T03:00:00Z", 9, "no")
PERIODS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}


def made(when: datetime, flaw: str = "", **proofs: Proof) -> BackupSet:
    """A set made then. `flaw`: "", or "damaged", "unread", "short", "missing"."""
    keys, second = Keys("nocodb"), int((when - EPOCH).total_seconds())
    parts = {name: Part(keys.part(second, name), 100, when) for name in ("dump", "manifest")}
    recorded = {"dump": Recorded(keys.part(second, "dump"), 100, "0" * 64)}
    manifest = Manifest("t", "nocodb", "", 1, recorded, "15", 15, 1, {}, None, {})
    one = BackupSet(when, parts, manifest, "", proofs)
    if flaw == "damaged":
        return replace(one, manifest=None, damaged="its manifest is no JSON")
    if flaw == "unread":
        return replace(one, manifest=None)
    if flaw == "short":
        return replace(one, parts=parts | {"dump": replace(parts["dump"], size=99)})
    if flaw == "missing":
        return replace(one, parts={"manifest": parts["manifest"]})
    return one


def keep(daily=0, weekly=0, monthly=0, yearly=0, minimum=1) -> Retention:
    return Retention(daily, weekly, monthly, yearly, minimum)


def kept(policy: Retention, sets, now: datetime = NOW) -> dict[datetime, tuple[str, ...]]:
    return {d.backup.timestamp: d.reasons for d in decide(policy, sets, now) if not d.goes}


def daily(count: int, newest: datetime = NOW - timedelta(hours=7)) -> list[BackupSet]:
    return [made(newest - i * DAY) for i in range(count)]


# --- examples ----------------------------------------------------------------------------------


def test_a_year_of_daily_sets_under_the_default_policy():
    reasons = kept(keep(7, 5, 12, minimum=3), daily(400))
    days = [f"{when:%m-%d}" for when in reasons]
    # 22nd to 16th; Sundays of five weeks; the last set of each of twelve months.
    assert days == [
        "11-22", "11-21", "11-20", "11-19", "11-18", "11-17", "11-16", "11-15", "11-08", "11-01",
        "10-31", "10-25", "09-30", "08-31", "07-31", "06-30", "05-31", "04-30", "03-31", "02-28",
        "01-31", "12-31",
    ]  # fmt: skip
    assert reasons[NOW - timedelta(hours=7)] == (
        "newest", "daily 2026-11-22", "weekly 2026-W47", "monthly 2026-11", "keep_min",
    )  # fmt: skip
    assert reasons[NOW - timedelta(hours=7) - 7 * DAY] == ("weekly 2026-W46",)


def test_periods_without_a_set_do_not_count():
    old = daily(3, NOW - 900 * DAY)
    assert len(kept(keep(daily=2), old)) == 2
    assert len(kept(keep(yearly=2), [*old, made(NOW - 2000 * DAY)])) == 2


def test_of_a_day_the_newest_stays():
    sets = [made(NOW - timedelta(hours=h)) for h in range(1, 9)]
    assert list(kept(keep(daily=5), sets)) == [NOW - timedelta(hours=1)]


def test_iso_weeks_cross_the_year():
    sets = [made(datetime(2026, 12, 31, 2, tzinfo=UTC)), made(datetime(2027, 1, 1, 2, tzinfo=UTC))]
    now = datetime(2027, 1, 2, tzinfo=UTC)
    assert kept(keep(weekly=9), sets, now) == {
        sets[1].timestamp: ("newest", "weekly 2026-W53", "keep_min")
    }


def test_the_newest_proven_sets_stay_however_old():
    sets = [*daily(5), made(NOW - 300 * DAY, deep=GOOD), made(NOW - 500 * DAY, drill=GOOD)]
    sets += [made(NOW - 600 * DAY, deep=GOOD, drill=GOOD)]
    reasons = kept(keep(daily=1), sets)
    assert reasons[NOW - 300 * DAY] == ("newest deep-read",)
    assert reasons[NOW - 500 * DAY] == ("newest drilled",)
    assert NOW - 600 * DAY not in reasons


def test_a_drilled_set_is_a_deep_read_one_too():
    sets = [made(NOW - DAY, drill=GOOD), made(NOW - 2 * DAY, deep=GOOD)]
    assert kept(keep(daily=1), sets) == {
        NOW - DAY: ("newest", "newest drilled", "newest deep-read", "daily 2026-11-21", "keep_min")
    }


def test_what_failed_its_proof_stands_for_a_period_only_where_nothing_else_does():
    noon, night = NOW - DAY, NOW - DAY - timedelta(hours=5)
    sets = [made(NOW), made(noon, drill=BAD), made(night), made(NOW - 3 * DAY, deep=BAD)]
    reasons = kept(keep(daily=3), sets)
    assert noon not in reasons
    assert reasons[night] == ("daily 2026-11-21",)
    assert reasons[NOW - 3 * DAY] == ("daily 2026-11-19",)


def test_incomplete_and_future_sets_are_shown_and_do_not_count():
    sets = [made(NOW + DAY), made(NOW, "short"), made(NOW - DAY, "damaged"), *daily(3)]
    decisions = decide(keep(daily=2), sets, NOW)
    said = {d.backup.timestamp: d for d in decisions}
    assert said[NOW + DAY].reasons == (FUTURE,)
    assert said[NOW].reasons[0].startswith("not complete, so neither counted nor touched: postgres")
    assert "is no JSON" in said[NOW - DAY].reasons[0]
    assert [d.counted for d in decisions] == [False, False, True, False, True, True]
    assert [d.goes for d in decisions] == [False, False, False, False, False, True]


# --- invariants --------------------------------------------------------------------------------

moments = st.one_of(
    # Crowded around now, so that periods hold several, and anywhere at all.
    st.integers(-200_000, 60 * 86400).map(lambda s: NOW - timedelta(seconds=s)),
    st.integers(0, 60 * 365 * 86400).map(lambda s: EPOCH + timedelta(seconds=s)),
)
flaws = st.sampled_from(["", "", "", "", "damaged", "unread", "short", "missing"])
proofs = st.dictionaries(st.sampled_from(["deep", "drill"]), st.sampled_from([GOOD, BAD]))
backups = st.lists(
    st.builds(lambda when, flaw, p: made(when, flaw, **p), moments, flaws, proofs),
    max_size=60,
    unique_by=lambda one: one.timestamp,
)
small = st.integers(0, 6)
policies = st.builds(Retention, small, small, small, small, st.integers(1, 8)).filter(
    lambda p: any((p.daily, p.weekly, p.monthly, p.yearly))
)
many = settings(max_examples=150, deadline=None)


def complete(sets) -> list[BackupSet]:
    """Those that count, newest first."""
    limit = NOW + timedelta(seconds=300)
    counted = [one for one in sets if not one.flaw and one.timestamp <= limit]
    return sorted(counted, key=lambda one: one.timestamp, reverse=True)


@many
@given(policies, backups)
def test_every_set_gets_one_decision_newest_first(policy, sets):
    decisions = decide(policy, sets, NOW)
    assert [d.backup for d in decisions] == sorted(
        sets, key=lambda one: one.timestamp, reverse=True
    )
    assert [d.backup for d in decisions if d.counted] == complete(sets)


@many
@given(policies, backups)
def test_only_complete_sets_of_the_past_go_and_never_below_keep_min(policy, sets):
    going = {d.backup.timestamp for d in decide(policy, sets, NOW) if d.goes}
    counted = complete(sets)
    assert going <= {one.timestamp for one in counted}
    assert len(counted) - len(going) >= min(policy.minimum, len(counted))


@many
@given(policies, backups)
def test_the_newest_and_the_newest_proven_stay(policy, sets):
    stays = kept(policy, sets)
    counted = complete(sets)
    for rungs in (("drilled",), ("drilled", "deep-read"), ("drilled", "deep-read", "complete")):
        proven = [one for one in counted if one.rung in rungs]
        assert all(one.timestamp in stays for one in proven[:1])
    assert all(one.timestamp in stays for one in counted[:1])


@many
@given(policies, backups)
def test_each_due_period_keeps_exactly_the_set_that_stands_for_it(policy, sets):
    stays = kept(policy, sets)
    for name, form in PERIODS.items():
        periods: dict[str, list[BackupSet]] = {}
        for one in complete(sets):
            periods.setdefault(f"{one.timestamp:{form}}", []).append(one)
        due = sorted(periods, reverse=True)[: getattr(policy, name)]
        standing = {
            period: next(
                (one for one in periods[period] if "failed" not in one.rung), periods[period][0]
            ).timestamp
            for period in due
        }
        said = {
            reason.removeprefix(f"{name} "): when
            for when, reasons in stays.items()
            for reason in reasons
            if reason.startswith(f"{name} ")
        }
        assert said == standing


@many
@given(policies, backups)
def test_nothing_stays_without_a_true_reason(policy, sets):
    counted = complete(sets)
    most = policy.daily + policy.weekly + policy.monthly + policy.yearly + policy.minimum + 3
    stays = kept(policy, sets)
    assert len([one for one in counted if one.timestamp in stays]) <= most


@many
@given(policies, backups, st.integers(0, 400))
def test_pruning_again_takes_nothing_more_however_much_later(policy, sets, days):
    left = [d.backup for d in decide(policy, sets, NOW) if not d.goes]
    # What was in the future may have come to pass and then counts: it is left out here.
    left = [one for one in left if one.timestamp <= NOW]
    again = kept(policy, left, NOW + days * DAY)
    assert set(again) == {one.timestamp for one in left}


@many
@given(policies, backups, st.tuples(small, small, small, small, small))
def test_a_larger_policy_keeps_all_that_a_smaller_one_keeps(policy, sets, more):
    larger = Retention(*(a + b for a, b in zip(vars(policy).values(), more, strict=True)))
    assert set(kept(policy, sets)) <= set(kept(larger, sets))


# --- over time ---------------------------------------------------------------------------------

rhythms = st.sampled_from([timedelta(hours=6), timedelta(hours=23), DAY, timedelta(days=3)])


@settings(max_examples=50, deadline=None)
@given(
    policies,
    rhythms,
    st.integers(1, 5),
    st.sets(st.integers(0, 700), max_size=300),
    st.dictionaries(st.integers(0, 700), st.sampled_from([{"drill": BAD}, {"drill": GOOD}])),
)
def test_years_of_pruning_keep_what_one_prune_of_everything_would_keep(
    policy, rhythm, every, missed, proven
):
    """Whenever it runs: no weekly, monthly or yearly set was taken before it was due."""
    ever: list[BackupSet] = []
    left: list[BackupSet] = []
    for number in range(700):
        now = datetime(2024, 1, 1, 2, 15, tzinfo=UTC) + number * rhythm
        if number not in missed:
            one = made(now, **proven.get(number, {}))
            ever.append(one)
            left.append(one)
        if number % every == 0:
            left = [d.backup for d in decide(policy, left, now) if not d.goes]
        if number % 50 == 0 and number % every == 0:
            assert {one.timestamp for one in left} == set(kept(policy, ever, now))


def test_ten_years_of_daily_prunes_reach_the_full_policy():
    policy = keep(7, 5, 12, 10, minimum=3)
    left: list[BackupSet] = []
    for number in range(3653):
        now = datetime(2016, 11, 22, 2, 15, tzinfo=UTC) + number * DAY
        left = [d.backup for d in decide(policy, [*left, made(now)], now) if not d.goes]
    reasons = [reason for d in decide(policy, left, now) for reason in d.reasons]
    for name, count in (("daily", 7), ("weekly", 5), ("monthly", 12), ("yearly", 10)):
        assert len([r for r in reasons if r.startswith(name)]) == count
    ends = [one.timestamp for one in left if (one.timestamp + DAY).year > one.timestamp.year]
    assert [f"{when:%Y-%m-%d}" for when in ends] == [f"{y}-12-31" for y in range(2025, 2016, -1)]


def test_without_new_backups_no_prune_ever_takes_more():
    policy = keep(7, 5, 12, minimum=3)
    left = [d.backup for d in decide(policy, daily(400), NOW) if not d.goes]
    for years in range(1, 20):
        assert len(kept(policy, left, NOW + years * 365 * DAY)) == len(left)
