"""The way back, against `gunzip | pg_restore` from a local file: a database of many tables.

Run as part of `make bench-backup`; needs root and the lab, which it brings up. The plain pipeline
has its file on the disk already and checks nothing; ours fetches the set from the bucket, compares
its SHA-256, restores, gathers statistics, and counts every row. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field

from bench.backup.subject import ROOT, SERVICE, Subject, end, inv
from bench.backup.watch import Watched, run
from bench.progress import in_turn
from fabfile.base.errors import SwarmkeepError
from fabfile.terminal.tables import table
from lab.model import DEFAULT_NAME, Lab

SIZES = {"tables": 80, "rows": 34_000, "big": 400_000}
ROUNDS = 3
FOLDER = "/var/backups/bench"
RESTORED, PLAIN = "bench_restored", "bench_plain"
GOAL_RATIO = 1.2

# What most people would type, into a database that they have just made.
PIPELINE = f"""set -e
id=$(docker ps -q --filter label=com.docker.swarm.service.name={SERVICE})
docker exec "$id" createdb -U nocodb -T template0 {PLAIN}
gunzip -c "$1" | docker exec -i "$id" pg_restore -U nocodb --exit-on-error -d {PLAIN}
"""
LITERAL_BACKUP = f"""set -e
. "$1"
export AWS_SHARED_CREDENTIALS_FILE AWS_DEFAULT_REGION="$AWS_REGION"
id=$(docker ps -q --filter label=com.docker.swarm.service.name={SERVICE})
cd {FOLDER}
docker exec "$id" pg_dump -U "$PG_USER" -Fc "$PG_DB" >literal
gzip literal
aws --endpoint-url "$S3_ENDPOINT_URL" s3 cp --only-show-errors literal.gz \\
  "s3://$S3_BUCKET/postgres/$PG_DB/literal.gz"
rm literal.gz
"""


@dataclass
class Way:
    """One thing that is timed, with its runs so far."""

    name: str
    argv: tuple[str, ...]
    drops: str = ""
    runs: list[Watched] = field(default_factory=list)

    def go(self, subject: Subject) -> None:
        """Run it once, and drop what it has made; SwarmkeepError with its output if it fails."""
        subject.sql("CHECKPOINT")
        done = run(subject.node, FOLDER, *self.argv)
        if done.exit_code:
            raise SwarmkeepError(
                f"{self.name} failed with exit code {done.exit_code}",
                details=tuple(done.output.splitlines()[-8:]),
            )
        self.runs.append(done)
        print(f"  {self.name}: {done.seconds:.1f} s", flush=True)
        if self.drops:
            subject.sql(f"DROP DATABASE {self.drops} WITH (FORCE)")

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(done.seconds for done in self.runs)


def measure(subject: Subject) -> int:
    """Run everything in turn and print it; the exit code."""
    own = ("--config", subject.config)
    backup = Way("backup-pg.sh", ("/usr/local/bin/backup-pg.sh", *own))
    literal = Way(
        "pg_dump, gzip, aws s3 cp", ("bash", "-c", LITERAL_BACKUP, "bash", subject.config)
    )
    backup.go(subject)
    literal.go(subject)
    dump = backup.runs[0].output.rpartition("key=")[2].split()[0].rpartition("/")[2]
    stamp = dump.removeprefix("backup_").partition(".")[0]
    file = f"{FOLDER}/{subject.database}/backup_{stamp}.dump.gz"
    script = "/usr/local/bin/restore-pg.sh"
    which = ("--database", subject.database, "--set", stamp)
    plain = Way("gunzip | pg_restore", ("bash", "-c", PIPELINE, "bash", file), PLAIN)
    # Not from the local copy: from the bucket.
    restore = Way(
        "restore-pg.sh restore",
        ("bash", "-c", 'mkdir -p "$1/aside" && mv "$1"/backup_* "$1/aside" && shift && "$@"; '
         'code=$?; mv "$0"/aside/* "$0"; exit $code', f"{FOLDER}/{subject.database}",
         f"{FOLDER}/{subject.database}", script, "restore", *own, *which, "--into", RESTORED),
        RESTORED,
    )  # fmt: skip
    drill = Way("restore-pg.sh drill", (script, "drill", *own, *which, "--cpus", "2"))
    for _ in in_turn(range(ROUNDS), "rounds"):
        plain.go(subject)
        restore.go(subject)
    drill.go(subject)
    ratio = restore.seconds / plain.seconds
    base = {backup.name: literal, literal.name: literal}
    rows = [
        [way.name, f"{way.seconds:.1f}", f"{way.seconds / base.get(way.name, plain).seconds:.2f}"]
        for way in (literal, backup, plain, restore, drill)
    ]
    print(table(["", "seconds (median)", "times the plain pipeline"], rows))
    good = ratio <= GOAL_RATIO
    words = f"a restore takes {ratio:.2f} times the plain pipeline (goal at most {GOAL_RATIO})"
    print(f"{'ok' if good else 'MISSED'}  {words}")
    return int(not good)


def main() -> int:
    """Prepare, measure, remove."""
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME
    inv("lab.up", "--name", name)
    subject = Subject(Lab.load(name), "bench_restore", FOLDER)
    try:
        subject.prepare(ROOT / "bench/backup/many_tables.sql", **SIZES)
        # What a run that was killed hard has left.
        for left in (RESTORED, PLAIN):
            subject.sql(f"DROP DATABASE IF EXISTS {left} WITH (FORCE)")
        return measure(subject)
    finally:
        subject.remove(RESTORED, PLAIN)


if __name__ == "__main__":
    end(main)
