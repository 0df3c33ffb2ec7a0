"""Point-in-time recovery: its cost for the database, base backups, how far behind the bucket is.

All pairs run in turn on the same node:

- writing as fast as PostgreSQL can, and a user of NocoDB, with pg_receivewal and without;
- a base backup through the FIFO beside `docker exec`: the copy alone, then compressed, there with
  gzip, here with what the node has;
- the age of the newest commit in the bucket, sampled for two minutes;
- the WAL of an idle NocoDB.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.backup.subject import ROOT, Subject, end, inv
from bench.pitr.switched_on import SwitchedOn, cluster_of, container_of, print_goals, switched_on
from bench.progress import in_turn
from fabfile.backup.bucket import Bucket
from fabfile.config import hosts_file
from fabfile.wal.archive import WalArchive
from lab import demo, docker, s3

ROUNDS = 3
ROWS = 150_000
MOST_COST, MOST_LITTLE, LEAST_BASE, MOST_BEHIND, MOST_IDLE = 1.35, 1.03, 3.0, 65.0, 50e6
FOLDER = "/var/backups/bench-pitr"
LOAD = """
CREATE TABLE IF NOT EXISTS load (n int, t text); TRUNCATE load;
INSERT INTO load SELECT n, repeat(md5(n::text), 12) FROM generate_series(1, 900000) n;
"""
RECORDS = 200
"""That a user of NocoDB makes and reads again, one after the other."""
BY_EXEC = r"""
docker exec -e PGUSER=nocodb "$1" pg_basebackup -D - -F t -X none -c fast \
  --manifest-checksums=SHA256 -w | COMPRESSOR >"$3/base"
"""
BY_FIFO = """
set -Eeuo pipefail
for part in common set; do . /usr/local/lib/backup-$part.sh; done
. /usr/local/lib/wal-base.sh
begin_run; load_config /etc/backup-pg.conf
DIR=$3 ERRORS=$3/errors PIECES_DIR=$2 CONTAINER=$1 PG_DB=postgres RUN=bench PARENT=""
choose_compression; remove_unfinished() { :; }
COMPRESSOR
copy_cluster "$3/base"
"""
PAIRS = {
    "alone": (
        BY_EXEC.replace("COMPRESSOR", "cat"),
        BY_FIFO.replace("COMPRESSOR", "COMPRESS=(cat)"),
    ),
    "compressed": (BY_EXEC.replace("COMPRESSOR", "gzip"), BY_FIFO.replace("COMPRESSOR", "")),
}


def timed(subject: Subject, script: str, *words: str) -> float:
    """Seconds that a script takes on the node; it must be good."""
    start = time.monotonic()
    docker.inside(subject.node, "bash", "-c", script, "bench", *words, timeout=1800)
    return time.monotonic() - start


def cost(on: SwitchedOn, subject: Subject) -> tuple[float, float]:
    """How many times as long writing takes with a receiver as without: much, and little."""
    much: dict[bool, list[float]] = {True: [], False: []}
    little: dict[bool, list[float]] = {True: [], False: []}
    api = demo.login(on.lab)
    columns = [{"title": "Title", "column_name": "Title", "uidt": "SingleLineText"}]
    made = f"/api/v2/tables/{api.table(api.base('Bench'), 'load', columns)}/records"
    on.cron("stop")
    for number in in_turn(range(2 * ROUNDS), "writing"):
        received = number % 2 == 0
        on.alone("archive" if received else "stop")
        subject.sql("CHECKPOINT")
        start = time.monotonic()
        subject.sql(LOAD, subject.database)
        much[received].append(time.monotonic() - start)
        subject.sql("CHECKPOINT")
        start = time.monotonic()
        for record in range(RECORDS):
            row = api.post(made, {"Title": f"record {record}"})
            api.get(f"{made}/{row['Id']}")
        little[received].append(time.monotonic() - start)
    on.alone("archive")
    on.cron("start")
    ratios = []
    for what, times in (("600 MB of WAL", much), (f"{RECORDS} records in NocoDB", little)):
        with_it, without = (statistics.median(times[one]) for one in (True, False))
        print(f"{what:25} {without:6.2f} s alone, {with_it:.2f} s with pg_receivewal")
        ratios.append(with_it / without)
    return ratios[0], ratios[1]


def base(subject: Subject, what: str) -> float:
    """How many times as fast a base backup is as through docker exec."""
    pieces = f"{FOLDER}-pieces"
    empty = f"rm -rf {pieces} {FOLDER}; mkdir -p {pieces} {FOLDER}"
    times: tuple[list[float], list[float]] = ([], [])
    for number in in_turn(range(2 * ROUNDS), "base backups"):
        docker.inside(subject.node, "sh", "-c", empty)
        words = (container_of(subject), pieces, FOLDER)
        times[number % 2].append(timed(subject, PAIRS[what][number % 2], *words))
    docker.inside(subject.node, "rm", "-rf", pieces)
    by_exec, by_fifo = map(statistics.median, times)
    print(f"base backup, {what:12} {by_exec:6.2f} s by docker exec, {by_fifo:.2f} s by the FIFO")
    return by_exec / by_fifo


def behind(hosts: Path, cluster: str) -> float:
    """Seconds that the newest commit in the bucket is old, at most, within two minutes."""
    archive = WalArchive(Bucket(hosts_file.load(hosts).backup), "")
    most = 0.0
    for _ in in_turn(range(24), "age of the newest commit"):
        until = archive.history(cluster).until
        assert until
        most = max(most, (datetime.now(UTC) - until).total_seconds())
        time.sleep(5)
    print(f"newest commit in the bucket at most {most:.1f} s old")
    return most


def idle(on: SwitchedOn) -> float:
    """Bytes of WAL a day in the bucket, from three minutes in which nobody uses NocoDB."""
    client = s3.client(on.lab, on.lab.secrets[s3.OPERATOR])

    def stored() -> int:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=on.lab.bucket, Prefix="wal/"
        )
        found = [item for page in pages for item in page.get("Contents", [])]
        return sum(item["Size"] for item in found if "/base_" not in item["Key"])

    on.alone("archive")
    before = stored()
    for _ in in_turn(range(36), "idle"):
        time.sleep(5)
    day = (stored() - before) / 3 * 1440
    print(f"idle NocoDB: {day / 1e6:.1f} MB of WAL a day in the bucket")
    return day


def main() -> int:
    """Prepare, measure, remove."""
    with switched_on() as on:
        subject = Subject(on.lab, "bench_pitr", FOLDER)
        try:
            subject.prepare(ROOT / "bench/backup/fill.sql", rows=ROWS)
            inv("deploy-app", env=on.environment)
            on.install()
            on.alone("archive")
            much, little = cost(on, subject)
            copied, compressed = base(subject, "alone"), base(subject, "compressed")
            on.alone("archive")
            on.alone("base")
            old, day = behind(on.hosts, cluster_of(subject)), idle(on)
        finally:
            subject.remove()
    return print_goals(
        (much <= MOST_COST, f"writing takes {much:.2f} times as long (at most {MOST_COST})"),
        (little <= MOST_LITTLE, f"NocoDB's records {little:.2f} times (at most {MOST_LITTLE})"),
        (copied >= LEAST_BASE, f"copy {copied:.2f} times as fast (at least {LEAST_BASE:.0f})"),
        (compressed >= LEAST_BASE, f"with compression {compressed:.2f} times ({LEAST_BASE:.0f})"),
        (old <= MOST_BEHIND, f"at most {old:.0f} s behind (a tick and 5 s: {MOST_BEHIND:.0f})"),
        (day <= MOST_IDLE, f"idle: {day / 1e6:.0f} MB a day (at most {MOST_IDLE / 1e6:.0f})"),
    )


if __name__ == "__main__":
    end(main)
