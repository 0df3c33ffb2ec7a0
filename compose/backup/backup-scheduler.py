"""The clock of the backup in a container: runs each job when it is due, says whether all is well.

A job is due when its schedule has a time after its last success. What that was, the bucket says: so
a night that was missed is caught up, and a restart runs nothing twice. Runs in the backup's own
image, with nothing but Python and croniter (Debian's python3-croniter).

    backup-scheduler.py            run the jobs, until SIGTERM
    backup-scheduler.py --health   for Docker: exit code 1 if this container has had time for a
                                   backup and has made none, for Swarm to start another one
    backup-scheduler.py --status   for people: exit code 1 if the newest backup is too old, or
                                   a job has failed
    backup-scheduler.py --next     print when each job is due
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from backup_bucket import Bucket
from backup_clock import BIN, PAUSE_SECONDS, Job, Scheduler, State, say

SETTINGS = Path(os.environ.get("BACKUP_SETTINGS", "/run/secrets/backup_settings"))


def read_settings(text: str) -> dict[str, str]:
    """Given a settings file of the scripts (lines NAME='value'), return it."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = "".join(shlex.split(value))
    return found


def jobs_of(settings: Mapping[str, str], bucket: Bucket) -> list[Job]:
    """The jobs of a container, its backup first: the database's, or the attachments'."""
    config = ["--config", str(SETTINGS)]
    schedule = settings["SCHEDULE"]
    if "APP_STACK" in settings:
        state = f"{bucket.prefix}files/{settings['APP_STACK']}/state/"
        node = os.environ.get("NODE_NAME") or settings.get("NODE", "")
        # With the slash: another node's name may end alike.
        last = partial(bucket.newest, state, f"/{node}.json", by_name=False)
        return [Job("files", schedule, [[f"{BIN}/backup-files.sh", *config]], last)]
    databases = settings["PG_DB"].split()
    folders = [f"{bucket.prefix}postgres/{name}/" for name in databases]

    def oldest(ending: str, start: str, *, by_name: bool) -> float | None:
        """Of every database the newest, and of those the oldest."""
        found = [bucket.newest(f"{one}{start}", ending, by_name=by_name) for one in folders]
        return None if None in found else min(filter(None, found))

    found = [
        Job(
            "backup",
            schedule,
            [[f"{BIN}/backup-pg.sh", *config]],
            partial(oldest, ".manifest.json", "backup_", by_name=True),
            lock="dumps",
        )
    ]
    if drills := settings.get("DRILL_SCHEDULE"):
        restore = f"{BIN}/restore-pg.sh"
        commands = [[restore, "drill", "--database", one, "--latest", *config] for one in databases]
        if settings.get("PITR") == "yes":
            commands.append([restore, "drill", "--database", databases[0], "--at", "end", *config])
        last = partial(oldest, "drill.json", "drill.json", by_name=False)
        found.append(Job("drill", drills, commands, last, lock="dumps"))
    if settings.get("PITR") == "yes":
        wal = f"{BIN}/wal-pg.sh"
        archive = [[wal, "archive", *config]]
        found.append(Job("wal", "* * * * *", archive, lambda: None, again=False))
        base = Path(settings["BACKUP_DIR"], ".wal", "newest-base")
        make_base = [[wal, "base", *config]]
        found.append(Job("base", settings["BASE_SCHEDULE"], make_base, partial(_changed, base)))
    return found


def _changed(path: Path) -> float | None:
    """When a file was changed, None where it is not there."""
    return path.stat().st_mtime if path.exists() else None


def make() -> Scheduler:
    """The scheduler that the settings want."""
    settings = read_settings(SETTINGS.read_text())
    folder = Path(settings.get("BACKUP_DIR") or settings["STATE_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    return Scheduler(
        jobs_of(settings, Bucket(settings)),
        State(folder / ".schedule.json"),
        ZoneInfo(settings.get("TIMEZONE") or "UTC"),
        float(settings.get("MAX_AGE") or 26 * 3600),
    )


def reap(ours: Sequence[int]) -> None:
    """Collect processes whose parents have gone: this is the first process of the container."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return
        os.waitpid(found.si_pid, 0)


def run() -> int:
    """Run the jobs until SIGTERM."""
    scheduler = make()

    def stop(_number: int, _frame: object) -> None:
        scheduler.ending = True

    def pause(_number: int, _frame: object) -> None:
        scheduler.paused_until = time.time() + PAUSE_SECONDS

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGUSR1, pause)
    names = ", ".join(f"{job.name} '{job.schedule}'" for job in scheduler.jobs)
    say(f"INFO schedules in {scheduler.zone}: {names}")
    while not scheduler.ending:
        scheduler.tick(time.time())
        reap([job.running.pid for job in scheduler.jobs if job.running])
        time.sleep(1)
    scheduler.end()
    return 0


def main(words: Sequence[str]) -> int:
    """What the command line asks for."""
    if words == ["--health"]:
        wrong = make().health(time.time())
        print(wrong or "ok")
        return int(bool(wrong))
    if words == ["--status"]:
        found = make().status(time.time())
        print("; ".join(found) or "ok")
        return int(bool(found))
    if words == ["--next"]:
        scheduler = make()
        for job in scheduler.jobs:
            when = datetime.fromtimestamp(scheduler.due(job, time.time()), UTC)
            print(f"{job.name} {when:%Y-%m-%dT%H:%M:%SZ}")
        return 0
    if words:
        print(__doc__, file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
