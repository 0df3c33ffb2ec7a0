"""Every check of a backup, each way it can go."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fabfile.backup.object_keys import EPOCH, Keys
from fabfile.backup.set_parsing import parse_manifest
from fabfile.backup.sets import BackupSet, FilesState, Proof
from fabfile.backup.verify import Expectations, Holding, judge
from fabfile.backup.verify_files import judge_files
from fabfile.config.project import Project
from fabfile.s3.objects import Part
from tests.unit.s3_server import manifest_of

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
EXPECTED = Expectations("nocodb", max_age=26 * 3600, min_size=10_000)
PLACE = "s3://test-bucket/postgres/nocodb/"


def landed(age: timedelta, size: int = 1_000_000, *, delay: timedelta | None = None, **changes):
    """A set made `age` ago, whose manifest arrived `delay` later. `changes`: of its fields."""
    timestamp = NOW - age
    second = int((timestamp - EPOCH).total_seconds())
    arrived = timestamp + (delay or timedelta(minutes=1))
    sizes = {"dump": size, "globals": 500, "manifest": 900}
    parts = {
        name: Part(Keys("nocodb").part(second, name), count, arrived)
        for name, count in sizes.items()
    }
    contents = {"dump": b"x" * size, "globals": b"y" * 500}
    text = json.dumps(manifest_of("nocodb", second, contents))
    one = BackupSet(timestamp, parts, parse_manifest(text, "nocodb"))
    return replace(one, **changes)


def judged(*backups: BackupSet, future=(), others=(), expected=EXPECTED, **more):
    checks = judge(expected, Holding(PLACE, backups, tuple(future), tuple(others), **more), NOW)
    for check in checks:
        assert check.detail
        assert check.ok or check.hint, f"{check.name} failed without a next step"
    return {check.name: check for check in checks}


def failed(checks):
    return [name for name, check in checks.items() if not check.ok]


def days(count: int, size: int = 1_000_000) -> list[BackupSet]:
    return [landed(timedelta(days=i + 1, hours=1), size) for i in range(count)]


def test_a_good_backup_passes_every_check():
    checks = judged(landed(timedelta(hours=7)), *days(7))
    assert list(checks) == [
        "found", "fresh", "size", "shrunk", "complete", "proven", "project", "cluster", "clock",
    ]  # fmt: skip
    assert failed(checks) == []
    assert "made 7h ago" in checks["fresh"].detail


def test_nothing_found_is_a_failure():
    checks = judged()
    assert failed(checks) == ["found"]
    assert PLACE in checks["found"].detail
    assert "inv backup.run" in checks["found"].hint


def test_nothing_but_garbage_is_nothing_found():
    checks = judged(others=["postgres/nocodb/backup_zzz"])
    assert failed(checks) == ["found"]
    assert "backup_zzz" in checks["found"].detail


@pytest.mark.parametrize(
    ("age", "ok"),
    [(26 * 3600, True), (26 * 3600 + 1, False), (0, True), (-300, True)],
)
def test_freshness_is_the_age_of_the_time_in_the_key(age, ok):
    checks = judged(landed(timedelta(seconds=age)), *days(7))
    assert checks["fresh"].ok is ok


def test_a_stale_backup_says_how_old_it_is_and_what_is_allowed():
    fresh = judged(landed(timedelta(days=3, hours=2)))["fresh"]
    assert "3d 2h ago" in fresh.detail
    assert "1d 2h" in fresh.detail
    assert "inv backup.logs" in fresh.hint


def test_a_late_upload_is_mentioned():
    fresh = judged(landed(timedelta(hours=20), delay=timedelta(hours=9)))["fresh"]
    assert fresh.ok
    assert "received it 9h after" in fresh.detail


def test_stale_but_received_just_now_points_at_the_clock():
    fresh = judged(landed(timedelta(days=3), delay=timedelta(days=2, hours=23)))["fresh"]
    assert not fresh.ok
    assert "clock" in fresh.hint
    assert "clock" not in judged(landed(timedelta(days=3)))["fresh"].hint


@pytest.mark.parametrize(("size", "ok"), [(10_000, True), (9_999, False), (0, False)])
def test_size(size, ok):
    checks = judged(landed(timedelta(hours=1), size), *days(7, size))
    assert checks["size"].ok is ok


@pytest.mark.parametrize(
    ("size", "ok"), [(500_000, True), (499_999, False), (1_000_000, True), (9_000_000, True)]
)
def test_shrunk(size, ok):
    checks = judged(landed(timedelta(hours=1), size), *days(7))
    assert checks["shrunk"].ok is ok
    assert failed(checks) == ([] if ok else ["shrunk"])


def test_one_odd_predecessor_does_not_matter():
    odd = [landed(timedelta(days=9), 100_000_000), *days(6)]
    assert judged(landed(timedelta(hours=1)), *odd)["shrunk"].ok


def test_only_the_last_seven_predecessors_count():
    older = [landed(timedelta(days=30 + i), 100_000_000) for i in range(20)]
    assert judged(landed(timedelta(hours=1)), *days(7), *older)["shrunk"].ok


def test_predecessors_of_no_size_say_nothing():
    assert judged(landed(timedelta(hours=1)), *days(7, 0))["shrunk"].ok


@pytest.mark.parametrize(("count", "said"), [(0, "no earlier"), (1, "only one"), (2, "only 2")])
def test_few_predecessors_are_not_judged_and_that_is_said(count, said):
    shrunk = judged(landed(timedelta(hours=1), 20_000), *days(count))["shrunk"]
    assert shrunk.ok
    assert said in shrunk.detail
    assert "skipped" in shrunk.detail


def without(one: BackupSet, part: str) -> BackupSet:
    return replace(one, parts={n: p for n, p in one.parts.items() if n != part})


def resized(one: BackupSet, part: str, size: int) -> BackupSet:
    return replace(one, parts={**one.parts, part: replace(one.parts[part], size=size)})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda one: without(one, "dump"), ".dump.gz is missing"),
        (lambda one: without(one, "globals"), ".globals.sql.gz is missing"),
        (lambda one: resized(one, "dump", 999_999), "has 999999 bytes, 1000000 were uploaded"),
        (lambda one: resized(one, "globals", 0), "has 0 bytes, 500 were uploaded"),
        (lambda one: replace(one, manifest=None, damaged="it is no JSON"), "it is no JSON"),
        (lambda one: replace(one, manifest=None), "has not been read"),
        (
            lambda one: replace(one, manifest=landed(timedelta(days=1)).manifest),
            "its manifest is of another set",
        ),
    ],
)
def test_incomplete(spoil, said):
    checks = judged(spoil(landed(timedelta(hours=1))), *days(7))
    assert "complete" in failed(checks)
    assert said in checks["complete"].detail


def test_parts_without_a_manifest_are_mentioned_but_count_for_nothing():
    later = NOW - timedelta(minutes=5)
    checks = judged(landed(timedelta(hours=7)), *days(7), incomplete=(later,))
    assert failed(checks) == []
    assert "parts of a later set" in checks["found"].detail
    alone = judged(incomplete=(later,))
    assert failed(alone) == ["found"]
    assert "parts without a manifest (2026-11-22 08:55:00 UTC)" in alone["found"].detail


@pytest.mark.parametrize(
    ("proofs", "ok", "said"),
    [
        ({}, True, "complete; no deep read and no drill of it on record"),
        ({"deep": Proof(True, "2026-11-22T04:00:00Z", 2)}, True, "deep-read 2026-11-22, 2.0s"),
        (
            {
                "deep": Proof(True, "2026-11-22T04:00:00Z", 2),
                "drill": Proof(True, "2026-11-22T05:00:00Z", 75),
            },
            True,
            "drilled 2026-11-22, 1m 15s",
        ),
        (
            {"drill": Proof(False, "2026-11-22T05:00:00Z", 75, "public.t: 3 rows instead of 4")},
            False,
            "failed drill 2026-11-22, 1m 15s: public.t: 3 rows instead of 4",
        ),
        (
            {
                "deep": Proof(False, "2026-11-22T06:00:00Z", 2, "sha256: differs"),
                "drill": Proof(True, "2026-11-22T05:00:00Z", 75),
            },
            False,
            "failed deep read 2026-11-22, 2.0s: sha256: differs",
        ),
        ({"drill": Proof(False, "", 0, "cannot be read")}, False, "failed drill: cannot be read"),
    ],
)
def test_how_far_it_is_proven(proofs, ok, said):
    checks = judged(landed(timedelta(hours=7), proofs=proofs), *days(7))
    assert checks["proven"].detail == said
    assert failed(checks) == ([] if ok else ["proven"])


def test_a_set_that_lacks_a_part_has_no_proof_but_fails_once():
    one = without(landed(timedelta(hours=7)), "globals")
    checks = judged(one, *days(7))
    assert failed(checks) == ["complete"]
    assert "landed only" in checks["proven"].detail
    bad = {"drill": Proof(False, "2026-11-22T05:00:00Z", 75, "no globals")}
    assert failed(judged(replace(one, proofs=bad), *days(7))) == ["complete", "proven"]


LIMIT = replace(EXPECTED, max_drill_age=35 * 86400)


@pytest.mark.parametrize(
    ("drill", "ok", "said"),
    [
        (Proof(True, "2026-11-20T04:00:00Z", 12.5), True, "2d 5h ago, within 35d"),
        (Proof(True, "2026-10-01T04:00:00Z", 12.5), False, "more than the 35d"),
        (Proof(False, "2026-11-20T04:00:00Z", 12.5, "a count differs"), False, "a count differs"),
        (Proof(True, "yesterday", 1), False, "cannot be read: 'yesterday'"),
        (None, False, "no good drill"),
    ],
)
def test_the_last_good_drill_must_be_young_enough(drill, ok, said):
    holding = Holding(PLACE, (landed(timedelta(hours=7)), *days(7)))
    checks = {check.name: check for check in judge(LIMIT, holding, NOW, drill)}
    assert checks["drilled"].ok is ok
    assert said in checks["drilled"].detail
    assert ok or "inv backup.drill" in checks["drilled"].hint
    assert "drilled" not in {check.name for check in judge(EXPECTED, holding, NOW, drill)}


def test_a_backup_of_the_future_is_a_failure_of_its_own():
    future = landed(timedelta(hours=-3))
    checks = judged(landed(timedelta(hours=7)), *days(7), future=[future])
    assert failed(checks) == ["clock"]
    assert future.key in checks["clock"].detail


def test_only_future_backups_are_nothing_found():
    checks = judged(future=[landed(timedelta(days=-300))])
    assert failed(checks) == ["found", "clock"]


def test_a_key_later_than_its_arrival_means_a_clock_ahead():
    checks = judged(landed(timedelta(hours=1), delay=timedelta(minutes=-6)))
    assert failed(checks) == ["clock"]
    assert "6m later" in checks["clock"].detail
    assert failed(judged(landed(timedelta(hours=1), delay=timedelta(minutes=-4)))) == []


@pytest.mark.parametrize(
    ("state", "ok", "said"),
    [
        (FilesState(NOW - timedelta(hours=7), 12, 5_000_000), True, "all 12 files, 4.8 MiB"),
        (FilesState(NOW - timedelta(hours=27), 12, 5_000_000), False, "more than the 1d 2h"),
        (FilesState(NOW + timedelta(hours=1), 0, 0), True, "all 0 files"),
        ("is of no known format", False, "is of no known format"),
        (None, False, "no backup of its files was ever recorded"),
    ],
)
def test_attachments_must_have_landed_lately_too(state, ok, said):
    [check] = judge_files({"app1": state}, 26 * 3600, NOW)
    assert check.name == "files app1"
    assert check.ok is ok
    assert said in check.detail
    assert ok or "inv backup.run" in check.hint


YOUNG = FilesState(NOW - timedelta(hours=7), 12, 5_000_000)
STALE = FilesState(NOW - timedelta(hours=27), 12, 5_000_000)


@pytest.mark.parametrize(
    ("states", "wrong"),
    [
        ({"app1": YOUNG, "app2": None}, []),
        ({"app1": None, "app2": YOUNG, "app3": None}, []),
        ({"app1": YOUNG, "app2": YOUNG}, []),
        ({"app1": None, "app2": None}, ["files app1", "files app2"]),
        # What was once recorded must stay young, whoever else is.
        ({"app1": YOUNG, "app2": STALE}, ["files app2"]),
        ({"app1": YOUNG, "app2": "cannot be read"}, ["files app2"]),
        # A stale state, or one that cannot be read, says nothing good of the others.
        ({"app1": STALE, "app2": None}, ["files app1", "files app2"]),
        ({"app1": "cannot be read", "app2": None}, ["files app1", "files app2"]),
        ({}, []),
    ],
)
def test_a_host_on_which_the_app_has_never_run_is_no_failure(states, wrong):
    checks = {check.name: check for check in judge_files(states, 26 * 3600, NOW)}
    assert list(checks) == [f"files {node}" for node in states]
    assert failed(checks) == wrong


def test_a_host_that_never_recorded_anything_is_shown():
    [_, standby] = judge_files({"app1": YOUNG, "app2": None}, 26 * 3600, NOW)
    assert "was ever recorded: the app has not run there yet" in standby.detail
    assert "those of app1 are in the bucket" in standby.detail


# --- whose, and of which cluster ---------------------------------------------------------------

OURS, THEIRS = Project("", "a" * 16), Project("theirs", "b" * 16)


def saying(age: timedelta, **said):
    """A set whose manifest says more."""
    one = landed(age)
    return replace(one, manifest=replace(one.manifest, **said))


def test_a_folder_of_our_own_is_fine():
    expected = replace(EXPECTED, project=OURS)
    checks = judged(saying(timedelta(hours=7), project=OURS), *days(7), expected=expected)
    assert failed(checks) == []
    assert "a" * 16 in checks["project"].detail


def test_a_newer_set_of_another_project_fails_and_the_rest_is_about_ours():
    expected = replace(EXPECTED, project=OURS)
    foreign = (saying(timedelta(hours=1), project=THEIRS),)
    ours = saying(timedelta(hours=7), project=OURS)
    checks = judged(ours, *days(7), expected=expected, foreign=foreign)
    assert failed(checks) == ["project"]
    assert "project theirs" in checks["project"].detail
    assert "project: NAME" in checks["project"].hint
    assert "made 7h ago" in checks["fresh"].detail
    older = (saying(timedelta(hours=9), project=THEIRS),)
    assert failed(judged(ours, *days(7), expected=expected, foreign=older)) == []


def test_only_sets_of_another_project_are_nothing_found():
    foreign = (saying(timedelta(hours=1), project=THEIRS),)
    checks = judged(expected=replace(EXPECTED, project=OURS), foreign=foreign)
    assert failed(checks) == ["found", "project"]
    assert "no backup in" in checks["found"].detail
    assert "of this project" in checks["found"].detail


def test_who_does_not_know_the_project_is_told_so_and_two_in_one_folder_fail():
    one = saying(timedelta(hours=7), project=OURS)
    checks = judged(one, *days(7))
    assert failed(checks) == []
    assert "not compared" in checks["project"].detail
    checks = judged(one, saying(timedelta(hours=8), project=THEIRS), *days(7))
    assert failed(checks) == ["project"]
    assert f"project_id: {'a' * 16}" in checks["project"].hint


def test_another_cluster_fails_until_it_is_accepted():
    """Seen: the night after a deploy with another major saved the empty database as a good set."""
    other = saying(timedelta(hours=7), cluster="9", expected_cluster="7")
    checks = judged(other, *days(7))
    assert failed(checks) == ["cluster"]
    assert "identifier 9; the sets before were of 7" in checks["cluster"].detail
    assert "inv backup.accept" in checks["cluster"].hint
    assert failed(judged(other, *days(7), expected=replace(EXPECTED, accepted_cluster="9"))) == []
    wrong = replace(EXPECTED, accepted_cluster="8")
    assert failed(judged(other, *days(7), expected=wrong)) == ["cluster"]
    same = saying(timedelta(hours=7), cluster="7", expected_cluster="7")
    assert failed(judged(same, *days(7))) == []
