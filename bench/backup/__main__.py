"""A backup from start to object in the bucket, against pg_dump -Fc, gzip, aws s3 cp one by one.

Run as `make bench-backup`; needs root and the lab, which it brings up. It fills a database of its
own beside the real one, runs both ways in turn, prints medians, and removes everything again.
Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field

from bench.backup.subject import ROOT, Subject, end, inv
from bench.backup.watch import Watched, run
from bench.progress import in_turn
from fabfile.base.errors import SwarmkeepError
from fabfile.terminal.tables import table
from lab.model import DEFAULT_NAME, Lab

ROWS = 450_000
ROUNDS = 3
FOLDER = "/var/backups/bench"
SCRIPT = "/usr/local/bin/backup-pg.sh"
GOAL_RATIO, GOAL_SIZE, GOAL_MEMORY = 2.0, 1.05, 200e6
SLACK = 1_000_000
"""Bytes of the folder that are not dump: checksum files, file system blocks."""

# What most people would write, and what the design calls the literal pipeline.
LITERAL = f"""set -e
. "$1"
export AWS_SHARED_CREDENTIALS_FILE AWS_DEFAULT_REGION="$AWS_REGION"
mkdir -p {FOLDER}/literal
cd {FOLDER}/literal
id=$(docker ps -q --filter label=com.docker.swarm.service.name=$DB_SERVICE_NAME)
docker exec "$id" pg_dump -U "$PG_USER" -Fc "$PG_DB" >dump
gzip dump
aws --endpoint-url "$S3_ENDPOINT_URL" s3 cp --only-show-errors dump.gz \\
  "s3://$S3_BUCKET/postgres/$PG_DB/literal.gz"
stat -c 'bytes=%s' dump.gz
rm -r {FOLDER}/literal
"""


@dataclass
class Side:
    """One way of making a backup, with its runs so far and its object's size in bytes."""

    name: str
    argv: tuple[str, ...]
    runs: list[Watched] = field(default_factory=list)
    size: int = 0

    def go(self, container: str) -> None:
        """Run it once; SwarmkeepError with its output if it fails."""
        done = run(container, FOLDER, *self.argv)
        if done.exit_code:
            raise SwarmkeepError(
                f"{self.name} failed with exit code {done.exit_code}",
                details=tuple(done.output.splitlines()[-8:]),
            )
        self.size = int(done.output.rpartition("bytes=")[2].split()[0])
        self.runs.append(done)
        print(f"  {self.name}: {done.seconds:.1f} s", flush=True)

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(done.seconds for done in self.runs)

    @property
    def memory(self) -> int:
        """The most of all runs."""
        return max(done.memory for done in self.runs)

    @property
    def disk(self) -> int:
        """The most of all runs."""
        return max(done.disk for done in self.runs)


def verdicts(literal: Side, script: Side) -> list[tuple[str, bool]]:
    """Each goal in words, and whether it is met."""
    ratio, size = literal.seconds / script.seconds, script.size / literal.size
    over = script.disk - script.size
    return [
        (f"{ratio:.2f} times as fast (goal {GOAL_RATIO:.0f})", ratio >= GOAL_RATIO),
        (f"object {100 * (size - 1):+.1f} % (goal at most +5 %)", size <= GOAL_SIZE),
        (f"{script.memory / 1e6:.0f} MB of memory (goal 200 MB)", script.memory < GOAL_MEMORY),
        (f"disk: one dump and {max(over, 0)} bytes (goal: one dump)", over <= SLACK),
    ]


def main() -> int:
    """Prepare, run both in turn, report, remove."""
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME
    inv("lab.up", "--name", name)
    subject = Subject(Lab.load(name), "bench_backup", FOLDER)
    literal = Side("literal pipeline", ("bash", "-c", LITERAL, "bash", subject.config))
    script = Side("backup-pg.sh", (SCRIPT, "--config", subject.config))
    try:
        subject.prepare(ROOT / "bench/backup/fill.sql", rows=ROWS)
        for _ in in_turn(range(ROUNDS), "rounds"):
            literal.go(subject.node)
            script.go(subject.node)
    finally:
        subject.remove()
    rows = [
        [side.name, f"{side.seconds:.1f}", f"{min(run.seconds for run in side.runs):.1f}",
         f"{side.size / 1e6:.1f}", f"{side.memory / 1e6:.0f}", f"{side.disk / 1e6:.1f}"]
        for side in (literal, script)
    ]  # fmt: skip
    print(table(["", "seconds (median)", "(best)", "object MB", "memory MB", "disk MB"], rows))
    found = verdicts(literal, script)
    for words, good in found:
        print(f"{'ok' if good else 'MISSED'}  {words}")
    return int(not all(good for _, good in found))


if __name__ == "__main__":
    end(main)
