"""Which set a recovery takes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from fabfile.backup.selection import check_name, newest_proven
from fabfile.backup.sets import Proof
from fabfile.base.errors import CheckFailedError, ConfigError
from tests.unit.backup.test_verify import PLACE, days, landed

OK, FAILED = Proof(True, "2026-11-22T01:00:00Z", 3.0), Proof(False, "", 3.0, "rows differ")


def chosen(*sets, min_size=10_000):
    return newest_proven(sets, PLACE, min_size)


def test_the_newest_if_nothing_speaks_against_it():
    newest = landed(timedelta(hours=1))
    assert chosen(newest, *days(4)) == (newest, [])


def test_what_cannot_be_trusted_is_passed_over_with_its_reason():
    torn = landed(timedelta(hours=1), damaged="cut off", manifest=None)
    failed = landed(timedelta(hours=2), proofs={"drill": FAILED})
    unread = landed(timedelta(hours=3), proofs={"deep": FAILED, "drill": OK})
    good = landed(timedelta(hours=4), proofs={"drill": OK})
    one, passed = chosen(torn, failed, unread, good, *days(3))
    assert one == good
    assert [why for _, why in passed] == [
        "cut off",
        "failed drill: rows differ",
        "failed deep read: rows differ",
    ]


def test_the_dump_of_a_database_that_had_just_been_lost_is_not_brought_back():
    empty = landed(timedelta(hours=1), 40_000)
    one, passed = chosen(empty, *days(4))
    assert one == days(4)[0]
    assert passed[0][0] == empty
    assert "4% of the usual" in passed[0][1]


def counted(age: timedelta, rows: dict[str, int] | None, size: int = 40_000):
    """A set whose manifest has counted these rows."""
    one = landed(age, size)
    return replace(one, manifest=replace(one.manifest, rows=rows))


GOOD = {"public.nc_users_v2": 3, "public.nc_migrations": 130, "p1.notes": 40, "p2.names": 20}
ANEW = {"public.nc_users_v2": 0, "public.nc_migrations": 130}


def test_five_nights_with_an_empty_database_hide_the_good_set_from_nobody():
    """As small as the good ones, and usual by now: only the rows tell."""
    nights = [counted(timedelta(days=i), ANEW) for i in range(1, 6)]
    good = counted(timedelta(days=6), GOOD)
    one, passed = chosen(*nights, good, counted(timedelta(days=7), GOOD))
    assert one == good
    assert [other for other, _ in passed] == nights
    assert passed[0][1] == f"nobody has signed up in it, set {good.stamp} had 3 users"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        # Somebody has signed up, to see what had become of it.
        (
            ANEW | {"public.nc_users_v2": 1, "p9.features": 5},
            "it has 5 rows in bases, set {} had 60",
        ),
        (GOOD | {"public.nc_users_v2": 1}, ""),
        (GOOD | {"p1.notes": 10}, ""),
        (GOOD | {"p3.more": 900}, ""),
        (None, ""),
    ],
)
def test_far_fewer_rows_than_an_earlier_set_had(rows, said):
    good = counted(timedelta(days=2), GOOD)
    late = counted(timedelta(days=1), rows)
    one, passed = chosen(late, good)
    assert [why for _, why in passed] == ([said.format(good.stamp)] if said else [])
    assert one == (good if said else late)


def test_rows_of_another_database_than_nocodbs():
    good = counted(timedelta(days=2), {"public.a": 100, "old.b": 100})
    moved = counted(timedelta(days=1), {"public.a": 190})
    assert chosen(moved, good) == (moved, [])
    emptied = counted(timedelta(days=1), {"public.a": 99, "old.b": 0})
    assert chosen(emptied, good)[1] == [(emptied, f"it has 99 rows, set {good.stamp} had 200")]


def test_what_is_damaged_or_not_counted_is_no_measure():
    torn = replace(counted(timedelta(days=2), GOOD), parts={})
    uncounted = counted(timedelta(days=3), None)
    anew = counted(timedelta(days=1), ANEW)
    assert chosen(anew, torn, uncounted) == (anew, [])


def test_nothing_to_trust():
    with pytest.raises(CheckFailedError, match="has no set that passes the checks") as caught:
        chosen(landed(timedelta(hours=1), 10))
    assert "--key" in caught.value.hint
    with pytest.raises(CheckFailedError, match="has no backup"):
        chosen()


def test_a_name_that_the_next_restore_drops_is_refused():
    with pytest.raises(ConfigError, match="unfinished restores") as caught:
        check_name("--into", "swarmkeep_restoring_x")
    assert caught.value.hint == "choose another name"
    assert check_name("--into", "my_swarmkeep_restoring_x") == "my_swarmkeep_restoring_x"
