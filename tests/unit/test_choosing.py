"""Which set a recovery takes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fabfile.choosing import check_name, newest_proven
from fabfile.errors import CheckFailedError, ConfigError
from fabfile.sets import Proof
from tests.unit.test_verify import PLACE, days, landed

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


def test_nothing_to_trust():
    with pytest.raises(CheckFailedError, match="has no set that can be trusted") as caught:
        chosen(landed(timedelta(hours=1), 10))
    assert "--key" in caught.value.hint
    with pytest.raises(CheckFailedError, match="has no backup"):
        chosen()


def test_a_name_that_the_next_restore_drops_is_refused():
    with pytest.raises(ConfigError, match="unfinished restores") as caught:
        check_name("--into", "swarmkeep_restoring_x")
    assert caught.value.hint == "choose another name"
    assert check_name("--into", "my_swarmkeep_restoring_x") == "my_swarmkeep_restoring_x"
