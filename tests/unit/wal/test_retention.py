"""What prune takes of base backups and WAL: never what a second within the window needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from fabfile.wal.chain import Base, History, with_parents_judged
from fabfile.wal.object_keys import Mark
from fabfile.wal.retention import decide, decide_former
from tests.unit.wal.test_chain import at, base, named, segment

LAST = 60


def without(history: History, decision) -> History:
    """What is left once everything that may go is gone."""
    return replace(
        history,
        bases=tuple(one for one in history.bases if one not in decision.bases),
        segments=tuple(one for one in history.segments if one not in decision.segments),
    )


def reachable(history: History) -> set[int]:
    windows = history.windows()
    return {m for m in range(LAST + 1) if any(w.start <= at(m) <= w.end for w in windows)}


def chained(bases: set[int], flawed: set[int], full: set[int]) -> tuple[Base, ...]:
    """Base backups, the newest first; each but the full ones adds to the one before it."""
    made: list[Base] = []
    for number in sorted(bases):
        parent = made[-1].stamp if made and number not in full else ""
        flaw = "damaged" if number in flawed else ""
        made.append(replace(base(number), parent=parent, flaw=flaw))
    return tuple(with_parents_judged(made[::-1]))


histories = st.builds(
    lambda bases, numbers, flawed, full: History(
        "7", "", chained(bases, flawed, full), tuple(segment(n) for n in sorted(numbers))
    ),
    st.sets(st.integers(0, LAST), max_size=8),
    st.sets(st.integers(0, LAST)),
    st.sets(st.integers(0, LAST), max_size=3),
    st.one_of(st.just(set(range(LAST + 1))), st.sets(st.integers(0, LAST))),
)


@given(histories, st.integers(1, LAST))
def test_every_second_of_the_window_that_could_be_reached_still_can(history, minutes):
    now = at(LAST)
    decision = decide(history, minutes * 60, now)
    begin = LAST - minutes
    before, after = reachable(history), reachable(without(history, decision))
    assert {m for m in before if m >= begin} <= after
    assert decide(without(history, decision), minutes * 60, now).anything is False


@given(histories, st.integers(1, LAST))
def test_no_segment_goes_that_a_kept_base_backup_needs(history, minutes):
    decision = decide(history, minutes * 60, at(LAST))
    left = without(history, decision)
    for one in decision.kept:
        assert left.reach(one) == history.reach(one)
    # None has lost what it is combined from.
    assert with_parents_judged(left.bases) == list(left.bases)
    if any(not one.flaw for one in history.bases):
        assert left.newest_base == history.newest_base


def test_the_segment_at_the_boundary_stays():
    history = History("7", "", (base(40), base(20)), tuple(segment(n) for n in range(10, 61)))
    decision = decide(history, 30 * 60, at(LAST))
    assert [one.name for one in decision.segments] == [named(n) for n in range(10, 20)]
    assert decision.bases == ()
    decision = decide(history, 20 * 60, at(LAST))
    assert [one.stamp for one in decision.bases] == [base(20).stamp]
    assert decision.segments[-1].name == named(39)


def test_without_an_older_base_backup_nothing_goes():
    history = History("7", "", (base(40),), tuple(segment(n) for n in range(10, 61)))
    assert not decide(history, 30 * 60, at(LAST)).anything
    assert not decide(replace(history, bases=()), 60, at(LAST)).anything


def test_marks_go_with_what_they_need():
    marks = (Mark("b", at(45)), Mark("a", at(30)))
    history = History("7", "", (base(40), base(20)), (), marks)
    assert decide(history, 20 * 60, at(LAST)).marks == (marks[1],)


def test_a_former_cluster_stays_as_a_whole_until_it_is_older_than_the_window():
    history = History("6", "", (base(1),), tuple(segment(n) for n in range(1, 11)))
    assert not decide_former(history, 600, at(20)).anything
    gone = decide_former(history, 600, at(20) + timedelta(seconds=1))
    assert (gone.kept, len(gone.bases), len(gone.segments)) == ((), 1, 10)
    assert not decide_former(History("6", ""), 600, at(20)).anything
