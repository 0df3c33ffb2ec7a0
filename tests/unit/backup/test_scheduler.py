"""The clock of the backup in a container: when a job is due; restarts, failures, summer time."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from zoneinfo import ZoneInfo

import pytest

FOLDER = Path(__file__).parents[3] / "compose" / "backup"
BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = "15 2 * * *"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# Each imports the ones before it, as in the image, where they lie in one folder.
clock, in_bucket, scheduler = map(load, ("backup_clock", "backup_bucket", "backup-scheduler"))


def at(text: str, zone: ZoneInfo | None = None) -> float:
    """Seconds since 1970 of a time, in UTC where no zone is given."""
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp()


def said(second: float) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}"


class World:
    """A clock that is set by hand, a job that is a program, and what the bucket says."""

    def __init__(self, folder: Path, schedule: str = NIGHTLY, zone: str = "UTC") -> None:
        self.folder, self.schedule, self.zone = folder, schedule, ZoneInfo(zone)
        self.in_bucket: float | None = None
        self.code = 0
        self.start()

    def start(self) -> None:
        """As after a restart of the container: what is in the volume is still there."""
        script = f"echo x >>{self.folder}/ran; exit {self.code}"
        job = clock.Job("backup", self.schedule, [["sh", "-c", script]], lambda: self.in_bucket)
        state = clock.State(self.folder / "state.json")
        self.it = clock.Scheduler([job], state, self.zone)

    def tick(self, when: str) -> None:
        """It is so late now; what is begun ends at once."""
        self.it.tick(at(when))
        for job in self.it.jobs:
            if job.running:
                job.running.wait()
        self.it.tick(at(when))

    @property
    def runs(self) -> int:
        path = self.folder / "ran"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def world(tmp_path, monkeypatch):
    # Whoever runs real backups on this machine is not meant.
    monkeypatch.setattr(clock, "BIN", str(tmp_path))
    return World(tmp_path)


def test_it_runs_when_it_is_due_and_once(world):
    for when in ("2026-11-01 02:14", "2026-11-01 02:14"):
        world.tick(when)
    assert world.runs == 0
    for when in ("2026-11-01 02:15", "2026-11-01 02:16", "2026-11-01 23:00", "2026-11-02 02:14"):
        world.tick(when)
    assert world.runs == 1
    world.tick("2026-11-02 02:15")
    assert world.runs == 2


def test_a_missed_night_is_caught_up_at_once_and_only_once(world):
    world.tick("2026-11-01 02:15")
    world.tick("2026-11-01 02:15")
    world.in_bucket = at("2026-11-01 02:15")
    # Three nights without it.
    world.start()
    world.tick("2026-11-04 10:00")
    runs = world.runs
    world.tick("2026-11-04 10:01")
    assert (runs, world.runs) == (1, 1)
    world.tick("2026-11-05 02:15")
    assert world.runs == 2


def test_a_restart_runs_nothing_twice_even_without_its_volume(world, tmp_path):
    world.tick("2026-11-01 00:00")
    world.tick("2026-11-01 02:15")
    world.in_bucket = at("2026-11-01 02:15")
    world.start()
    world.tick("2026-11-01 02:16")
    assert world.runs == 1
    # The volume is lost, too: the bucket says that it was done.
    (tmp_path / "state.json").unlink()
    world.start()
    world.tick("2026-11-01 12:00")
    world.tick("2026-11-02 02:14")
    assert world.runs == 1


def test_what_somebody_else_has_made_counts(world):
    world.tick("2026-11-01 00:00")
    world.in_bucket = at("2026-11-01 02:15")  # by the host's cron, before the mode was changed
    world.tick("2026-11-01 02:16")
    assert world.runs == 0


def test_one_that_fails_is_tried_by_its_schedule_and_makes_it_unhealthy(world, capsys):
    world.code = 18
    world.start()
    world.tick("2026-11-01 00:00")
    world.tick("2026-11-01 02:15")
    world.tick("2026-11-01 02:16")
    assert world.runs == 1
    assert "job backup ended with exit code 18" in capsys.readouterr().err
    assert world.it.health(at("2026-11-01 20:00")) == ""
    assert world.it.status(at("2026-11-01 20:00")) == ["job backup ended with exit code 18"]
    assert "is 27.0 hours old, 26 are allowed" in world.it.health(at("2026-11-02 03:00"))
    assert "is 27.0 hours old, 26 are allowed" in world.it.status(at("2026-11-02 03:00"))[1]
    # Another container, with settings that were corrected: it tries at once, and has its time.
    world.code = 0
    world.start()
    world.it.start(at("2026-11-02 03:00"))
    assert world.it.health(at("2026-11-02 03:00")) == ""
    assert world.it.status(at("2026-11-02 03:00"))
    world.tick("2026-11-02 03:01")
    assert world.runs == 2
    assert world.it.status(at("2026-11-02 03:02")) == []


def test_a_good_backup_by_hand_makes_the_status_good(world):
    world.code = 18
    world.start()
    world.tick("2026-11-01 00:00")
    world.tick("2026-11-01 02:15")
    assert world.it.status(at("2026-11-01 12:00"))
    world.in_bucket = at("2026-11-01 11:00")
    assert world.it.status(at("2026-11-01 12:00")) == []


def test_a_run_that_was_interrupted_is_begun_anew(world):
    world.tick("2026-11-01 00:00")
    world.it.jobs[0].commands = [["sleep", "60"]]
    world.it.tick(at("2026-11-01 02:15"))
    world.it.end()
    world.start()
    world.tick("2026-11-01 02:20")
    assert world.runs == 1


def test_an_empty_volume_and_an_old_backup_in_the_bucket_run_at_once(world):
    world.in_bucket = at("2026-10-24 02:15")
    world.tick("2026-11-01 12:00")
    assert world.runs == 1


@pytest.mark.parametrize("code", [clock.LOCKED, clock.NOT_HERE, clock.NO_DATABASE])
def test_while_the_database_is_not_there_it_is_tried_again_for_an_hour(world, code):
    world.tick("2026-11-01 00:00")
    world.code = code
    world.start()
    world.tick("2026-11-01 02:15")
    world.tick("2026-11-01 02:19")
    assert world.runs == 1
    world.tick("2026-11-01 02:20")
    assert world.runs == 2
    for hour in range(3, 23):
        world.tick(f"2026-11-01 {hour:02}:00")
    assert world.runs == 1 + clock.AGAIN_TIMES
    world.tick("2026-11-02 02:15")
    assert world.runs == 2 + clock.AGAIN_TIMES


def test_nothing_begins_while_it_is_paused(world):
    world.tick("2026-11-01 00:00")
    world.it.paused_until = at("2026-11-01 02:20")
    world.tick("2026-11-01 02:15")
    assert world.runs == 0
    world.tick("2026-11-01 02:20")
    assert world.runs == 1


def test_a_full_disk_and_a_fault_of_a_job_end_nothing(world, capsys, monkeypatch):
    world.tick("2026-11-01 00:00")
    world.it.state.path = Path("/proc/none/state.json")
    world.tick("2026-11-01 02:15")
    world.tick("2026-11-01 02:16")
    assert world.runs == 1
    assert "cannot be written" in capsys.readouterr().err
    world.it.jobs[0].commands = [["/no/such/program"]]
    world.tick("2026-11-02 02:15")
    assert "ERROR job backup: FileNotFoundError" in capsys.readouterr().err


def test_a_clock_that_was_wrong_is_not_believed(world):
    world.tick("2026-11-01 00:00")
    world.it.state.set("backup.succeeded", at("2027-11-01 00:00"))
    world.tick("2026-11-01 02:15")
    assert world.runs == 1
    assert world.it.health(at("2026-11-05 00:00"))


def test_a_long_first_run_is_no_illness(world, tmp_path):
    program = tmp_path / "backup-pg.sh"
    os.mkfifo(tmp_path / "silent")
    program.write_text(f"read -r -t 60 <>{tmp_path}/silent\n")
    assert world.it.health(at("2026-11-01 00:00")) == "it has not begun"
    world.it.jobs[0].commands = [["bash", str(program)]]
    world.it.tick(at("2026-11-01 00:00"))
    world.it.tick(at("2026-11-02 12:00"))
    assert world.it.jobs[0].running
    # The command line of a process is empty for a moment after it was started.
    deadline = time.monotonic() + 10
    while not clock.busy():
        assert time.monotonic() < deadline
    assert world.it.health(at("2026-11-05 00:00")) == ""
    begun = time.monotonic()
    world.it.end()
    assert time.monotonic() - begun < 30
    assert world.it.health(at("2026-11-05 00:00")) != ""


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        # The clock goes from 02:00 to 03:00 on 29 March 2026, and back on 25 October.
        ("2026-03-28 02:15", "2026-03-29 01:15"),  # 02:15 is not there: 03:15 in summer time
        ("2026-03-29 03:15", "2026-03-30 00:15"),
        ("2026-10-24 02:15", "2026-10-25 00:15"),  # the first of two
        ("2026-10-25 02:15", "2026-10-26 01:15"),  # not the second one an hour later
    ],
)
def test_daily_runs_once_a_day_where_the_clock_changes(last, wanted):
    found = clock.next_after(NIGHTLY, at(last, BERLIN), BERLIN)
    assert said(found) == wanted


def test_a_year_of_nights_has_one_run_each():
    when, end = at("2026-01-01 00:00"), at("2027-01-01 00:00")
    days = []
    while (when := clock.next_after(NIGHTLY, when, BERLIN)) < end:
        days.append(datetime.fromtimestamp(when, BERLIN).date())
    assert len(days) == len(set(days)) == 365


@pytest.mark.parametrize(("schedule", "seconds"), [("* * * * *", 60), ("*/15 * * * *", 900)])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_what_runs_all_day_has_no_gap_where_the_clock_changes(schedule, seconds, day):
    when, end = at(f"{day} 00:00", BERLIN), at(f"{day} 05:00", BERLIN)
    while when < end:
        found = clock.next_after(schedule, when, BERLIN)
        assert found - when == seconds, said(when)
        when = found


def test_the_jobs_of_a_database_with_point_in_time_recovery(tmp_path):
    settings = scheduler.read_settings(
        "# a comment\nPG_DB='nocodb other'\nSCHEDULE='15 2 * * *'\nDRILL_SCHEDULE='0 4 * * 0'\n"
        "PITR='yes'\nBASE_SCHEDULE='45 1 * * *'\nBACKUP_DIR='/x'\nS3_BUCKET='b'\nAWS_REGION='r'\n"
    )
    jobs = scheduler.jobs_of(settings, in_bucket.Bucket(settings))
    assert [(job.name, job.schedule, len(job.commands)) for job in jobs] == [
        ("backup", "15 2 * * *", 1),
        ("drill", "0 4 * * 0", 3),
        ("wal", "* * * * *", 1),
        ("base", "45 1 * * *", 1),
    ]
    # A drill and a backup never run at once: they have one lock.
    assert jobs[0].lock == jobs[1].lock != jobs[2].lock


def test_what_the_bucket_says(tmp_path, monkeypatch):
    aws = tmp_path / "aws"
    now = datetime.now(UTC).replace(microsecond=0)
    newest, future = now - timedelta(hours=5), now + timedelta(days=1)
    keys = [
        f"postgres/nocodb/backup_{one:%Y%m%dT%H%M%SZ}"
        for one in (now - timedelta(days=2), newest, future)
    ]
    listed = [[f"{key}.manifest.json", "2026-01-01T00:00:00+00:00"] for key in keys]
    listed += [[f"postgres/nocodb/backup_{now:%Y%m%dT%H%M%SZ}.dump.gz", "x"]]
    aws.write_text(f"#!/bin/sh\necho '{json.dumps(listed)}'\n")
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    bucket = in_bucket.Bucket({"S3_BUCKET": "b", "AWS_REGION": "r"})
    found = bucket.newest("postgres/nocodb/backup_", ".manifest.json", by_name=True)
    assert found == newest.timestamp()
    # Another node whose name ends alike.
    state = [["files/appstack/state/my-app1.json", now.isoformat()]]
    aws.write_text(f"#!/bin/sh\necho '{json.dumps(state)}'\n")
    assert bucket.newest("files/appstack/state/", "/app1.json", by_name=False) is None
    assert bucket.newest("files/appstack/state/", "/my-app1.json", by_name=False)
    aws.write_text("#!/bin/sh\necho 'An error occurred (AccessDenied)' >&2; exit 1\n")
    assert bucket.newest("x", "y", by_name=True) is None


def test_whoever_has_lost_its_parent_is_collected():
    child = os.fork()
    if child == 0:
        os._exit(0)
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < end
        scheduler.reap([])
