"""doctor on point-in-time recovery: each way in which no WAL is archived, or none replayed."""

from __future__ import annotations

import pytest

from fabfile.doctor import wal_checks

WELL = {
    "superuser": "t",
    "tablespaces": "0",
    "slot": "active reserved 1073741824",
    "cap": "1073741824",
    "other_slots": "-",
    "spool": "33558528",
    "summaries": "-",
    "volumes": "20000000000 1200000000",
    "folder": "20000000000 30000000",
}


def said(**changes: str) -> tuple[int, str]:
    return 0, "\n".join(f"{name} {values}" for name, values in (WELL | changes).items())


def test_what_is_well_says_what_it_is():
    checks = wal_checks.judge(said())
    assert all(check.ok for check in checks)
    assert [check.name for check in checks] == ["wal rights", "wal slot", "wal spool", "wal disk"]
    assert "at most 1.0 GiB" in checks[1].detail
    assert "32.0 MiB in the spool" in checks[2].detail


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"superuser": "f"}, "wal rights", "no superuser"),
        ({"tablespaces": "2"}, "wal rights", "2 tablespaces of its own"),
        ({"slot": "none - -"}, "wal slot", "is not there"),
        ({"slot": "idle lost -"}, "wal slot", "is lost"),
        ({"slot": "active unreserved -5"}, "wal slot", "is unreserved"),
        ({"slot": "idle reserved 1000"}, "wal slot", "pg_receivewal does not run"),
        ({"slot": "foreign reserved 1000"}, "wal slot", "another program reads slot"),
        ({"cap": "-1"}, "wal slot", "has no limit"),
        ({"summaries": "2000000000"}, "wal slot", "summarizer is 1.9 GiB behind"),
        ({"spool": "800000000"}, "wal spool", "762.9 MiB in the spool, 1.0 GiB at most"),
        ({"volumes": "1000000000 1200000000"}, "wal disk", "953.7 MiB are free"),
        ({"folder": "20000000 30000000"}, "wal disk", "19.1 MiB are free"),
    ],
)
def test_what_is_wrong_is_one_failure_with_a_next_step(changes, name, reason):
    bad = [check for check in wal_checks.judge(said(**changes)) if not check.ok]
    assert [check.name for check in bad] == [name]
    assert reason in bad[0].detail
    assert bad[0].hint


def test_other_slots_that_share_the_limit_are_named():
    checks = wal_checks.judge(said(other_slots="debezium,standby1"))
    assert all(check.ok for check in checks)
    assert "the other slots: debezium, standby1" in checks[1].detail


def test_of_several_hosts_one_that_does_not_run_it_is_well():
    outcome = (11, "2026-11-27T10:00:00Z ERROR run=1-2 no running container; next: inv status")
    [check] = wal_checks.judge(outcome, only_host=False)
    assert check.ok
    assert "does not run on this host" in check.detail


@pytest.mark.parametrize(
    ("outcome", "detail", "hint"),
    [
        (None, "is not installed", "inv backup.install"),
        (
            (11, "2026-11-27T10:00:00Z ERROR run=1-2 no running container; next: inv status"),
            "no running container",
            "inv status",
        ),
        ((0, "superuser t\nslot"), "said nothing of use (exit code 0)", "inv backup.logs"),
        ((2, "Usage: wal-pg.sh archive | base"), "of an earlier version", "inv backup.install"),
        ((127, ""), "said nothing of use (exit code 127)", "inv backup.logs"),
    ],
)
def test_a_node_that_cannot_say_is_a_failure(outcome, detail, hint):
    [check] = wal_checks.judge(outcome)
    assert not check.ok
    assert detail in check.detail
    assert hint in check.hint
