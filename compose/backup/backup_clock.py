"""When each job of the backup's container is due, what has become of it, whether all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

BIN = "/usr/local/bin"
LOCKED, NOT_HERE, NO_DATABASE = 10, 11, 13
"""Exit codes of the scripts: another run is in progress; no PostgreSQL; it is not ready."""
AGAIN_SECONDS, AGAIN_TIMES = 300, 12
"""When, and how often, a job is tried again after one of them: both come up after a reboot."""
PAUSE_SECONDS = 600
"""How long SIGUSR1 keeps jobs from beginning: while the backup is being taken off."""
LEEWAY = 300
"""Seconds by which a time may be in the future. What is later is of a clock that was wrong."""


def next_after(schedule: str, last: float, zone: ZoneInfo) -> float:
    """Given five cron fields, seconds since 1970 and a time zone, return the next time after it.

    The clock on the wall counts. A time that does not exist (daylight saving time begins) is the
    one an hour later. Of a time that is there twice the first counts, so that a daily job runs
    once; a job of every hour runs both times.
    """
    from croniter import croniter  # type: ignore[import-untyped]

    start = wall = datetime.fromtimestamp(last, zone).replace(tzinfo=None)
    folds: tuple[int, ...] = (0,)
    if "*" in schedule.split()[1] and _changes(last, zone):
        # The second time of an hour begins where the wall shows an hour less.
        wall, folds = wall - timedelta(hours=1), (0, 1)
    found: list[float] = []
    while not found or wall <= start:
        wall = croniter(schedule, wall).get_next(datetime)
        times = (wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in folds)
        found += [one for one in times if one > last]
    return min(found)


def _changes(second: float, zone: ZoneInfo) -> bool:
    """Whether the clock is changed in the hours around a time."""
    offsets = {
        datetime.fromtimestamp(second + hours * 3600, zone).utcoffset() for hours in (-3, 0, 3)
    }
    return len(offsets) > 1


@dataclass
class Job:
    """Something that runs by a schedule. `commands` are run one after the other; `last` asks when
    it has succeeded last, as seconds since 1970, None if never or not known. Jobs of one `lock`
    never run at the same time. With `again` it is tried again soon where PostgreSQL was not there.
    """

    name: str
    schedule: str
    commands: Sequence[Sequence[str]]
    last: Callable[[], float | None]
    lock: str = ""
    again: bool = True
    running: subprocess.Popen[bytes] | None = None
    waiting: list[Sequence[str]] = field(default_factory=list)
    code: int = 0
    not_before: float = 0
    tries: int = 0


class State:
    """What is known from one start to the next, in the volume."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data: dict[str, float] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.data = {}

    def set(self, name: str, value: float | None) -> None:
        """Keep a value, or forget it. On a full disk it is known until the next start."""
        if value is None:
            self.data.pop(name, None)
        else:
            self.data[name] = value
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            new.write_text(json.dumps(self.data))
            new.replace(self.path)
        except OSError as error:
            say(f"WARNING {self.path} cannot be written: {error.strerror}")

    def get(self, name: str, now: float) -> float:
        """A time, 0 where there is none."""
        value = self.data.get(name, 0)
        return value if value <= now + LEEWAY else 0


class Scheduler:
    """Runs jobs."""

    def __init__(
        self, jobs: Sequence[Job], state: State, zone: ZoneInfo, max_age: float = 26 * 3600
    ) -> None:
        self.jobs, self.state, self.zone, self.max_age = jobs, state, zone, max_age
        self.ending = False
        self.paused_until = 0.0
        self.started = False

    def due(self, job: Job, now: float) -> float:
        """When a job is to run next, by what was seen of it: seconds since 1970."""
        names = (f"{job.name}.succeeded", f"{job.name}.begun")
        seen = max(self.state.get(name, now) for name in names)
        return next_after(job.schedule, seen or self.state.get("first", now) or now, self.zone)

    def start(self, now: float) -> None:
        """What the container's start changes: what was begun and has not succeeded is tried again,
        for it was interrupted, or the settings are others now; and an empty volume asks the bucket.
        """
        self.started = True
        self.state.set("started", now)
        if not self.state.get("first", now):
            self.state.set("first", now)
        for job in self.jobs:
            self.state.set(f"{job.name}.begun", None)
            if not self.state.get(f"{job.name}.succeeded", now):
                self.state.set(f"{job.name}.succeeded", job.last())

    def tick(self, now: float) -> None:
        """Begin what is due, and note what has ended."""
        if not self.started:
            self.start(now)
        for job in self.jobs:
            try:
                self._look_at(job, now)
            except Exception as error:  # noqa: BLE001 # One job's fault must not end the others.
                say(f"ERROR job {job.name}: {error!r}; next: report this")
                job.not_before = now + AGAIN_SECONDS

    def _look_at(self, job: Job, now: float) -> None:
        self._follow(job, now)
        if job.running or now < max(self.paused_until, job.not_before):
            return
        if self.due(job, now) > now or self._locked(job):
            return
        # Somebody may have run it meanwhile, by hand or on the host.
        last = job.last()
        if last and last > self.state.get(f"{job.name}.succeeded", now):
            self.state.set(f"{job.name}.succeeded", last)
            if self.due(job, now) > now:
                return
        if self.ending or now < self.paused_until:
            return
        self.state.set(f"{job.name}.begun", now)
        job.waiting, job.code = list(job.commands), 0
        self._next_command(job)

    def _locked(self, job: Job) -> bool:
        return any(one.running and one.lock == job.lock for one in self.jobs if job.lock)

    def _follow(self, job: Job, now: float) -> None:
        if job.running is None or (code := job.running.poll()) is None:
            return
        job.running, job.code = None, job.code or code
        if job.waiting and not self.ending:
            self._next_command(job)
            return
        self.state.set(f"{job.name}.failed", job.code or None)
        if job.code == 0:
            self.state.set(f"{job.name}.succeeded", now)
            job.tries = 0
            return
        soon = job.again and job.code in (LOCKED, NOT_HERE, NO_DATABASE)
        if soon and job.tries < AGAIN_TIMES:
            job.tries += 1
            job.not_before = now + AGAIN_SECONDS
            self.state.set(f"{job.name}.begun", None)
            say(f"INFO job {job.name} ended with exit code {job.code}: again in 5 minutes")
            return
        job.tries = 0
        if job.code != LOCKED:
            say(f"ERROR job {job.name} ended with exit code {job.code}; next: see its lines above")

    def _next_command(self, job: Job) -> None:
        job.running = subprocess.Popen(job.waiting.pop(0), stdin=subprocess.DEVNULL)

    def end(self) -> None:
        """Let what runs end cleanly, and wait for it."""
        self.ending = True
        for job in self.jobs:
            if job.running:
                job.running.terminate()
        for job in self.jobs:
            if job.running:
                job.running.wait()

    def health(self, now: float) -> str:
        """What is wrong, for Swarm, which ends what is unhealthy; "" if nothing is.

        Counted from the container's start: another container with corrected settings must have
        its time. While a backup or a restore runs, nothing is wrong.
        """
        if not self.state.data:
            return "it has not begun"
        started = self.state.get("started", now)
        since = max(self.state.get(f"{self.jobs[0].name}.succeeded", now), started)
        if now - since <= self.max_age or busy():
            return ""
        return self._too_old(now, since)

    def status(self, now: float) -> list[str]:
        """What is wrong, for people: a backup that is too old, jobs that have failed."""
        if not self.state.data:
            return ["it has not begun"]
        first = self.jobs[0]
        since = max(
            self.state.get(f"{first.name}.succeeded", now),
            # Somebody may have run it by hand.
            first.last() or 0,
        )
        ended = {job.name: self.state.data.get(f"{job.name}.failed") for job in self.jobs}
        if since > self.state.get(f"{first.name}.begun", now):
            ended.pop(first.name)
        wrong = [
            f"job {name} ended with exit code {code:.0f}" for name, code in ended.items() if code
        ]
        since = since or self.state.get("first", now)
        return wrong + ([self._too_old(now, since)] if now - since > self.max_age else [])

    def _too_old(self, now: float, since: float) -> str:
        hours = (now - since) / 3600
        return (
            f"the last good backup is {hours:.1f} hours old, {self.max_age / 3600:.0f} are allowed"
        )


def busy() -> bool:
    """Whether a backup, a restore or a base backup runs in the container, whoever began it."""
    words = ("backup-pg.sh", "backup-files.sh", "restore-pg.sh", "wal-pg.sh base")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(f"{BIN}/{one}" in line for one in words):
            return True
    return False


def say(text: str) -> None:
    """Write a line as the scripts do."""
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}", file=sys.stderr, flush=True)
