"""Going back: what Swarmkeep needs beside the same done by hand, from files that are there already.

By hand: unpack a base backup, start a PostgreSQL on it that fetches 1 GB of WAL with cp, and move
one database with pg_dump and pg_restore. Nothing is downloaded, decompressed or compared there.
"""

from __future__ import annotations

import re
import statistics
import time

from bench.backup.subject import ROOT, Subject, end
from bench.pitr.switched_on import cluster_of, container_of, print_goals, switched_on
from bench.progress import in_turn
from lab import docker

ROUNDS = 3
ROWS = 150_000
MOST_REPLAY, MOST_RESTORE = 1.3, 2.0
FOLDER = "/var/backups/bench-replay"
# About 1 GB of WAL.
LOAD = """
DROP TABLE IF EXISTS load; CREATE TABLE load (n int, t text);
INSERT INTO load SELECT n, repeat(md5(n::text), 12) FROM generate_series(1, 1700000) n;
DROP TABLE load; SELECT pg_switch_wal();
"""
# $1: the folder, $2: the cluster. Its newest base backup and the WAL after it.
FETCH = """
set -e
. /etc/backup-pg.conf
export AWS_SHARED_CREDENTIALS_FILE AWS_DEFAULT_REGION="$AWS_REGION"
s3() { aws --endpoint-url "$S3_ENDPOINT_URL" s3 "$@"; }
rm -rf "$1"; mkdir -p "$1/wal"; cd "$1"
s3 cp --recursive --only-show-errors "s3://$S3_BUCKET/wal/$2/" .
base=$(find . -name 'base_*.tar.gz' | sort | tail -n 1)
mv "$base" base.tar.gz
for f in $(find . -name '*_*_*.gz'); do
  name=${f##*/}; gzip -dc "$f" >"wal/${name%%_*}"; rm "$f"
done
chmod -R a+rX .
"""
# $1: the live container, $2: the folder, $3: the database. Prints the seconds of the replay.
BY_HAND = r"""
set -e
image=$(docker inspect -f '{{.Image}}' "$1")
t=$(docker run -d --network none -v "$2:/hand:ro" --shm-size 128m --entrypoint tail \
  "$image" -f /dev/null)
trap 'docker rm -f -v "$t" >/dev/null' EXIT
docker exec -i "$t" sh -s <<'END'
set -e
mkdir -m 700 /var/lib/postgresql/data/hand && cd /var/lib/postgresql/data/hand
gzip -dc /hand/base.tar.gz | tar -x
echo "restore_command = 'cp /hand/wal/%f %p'" >>postgresql.auto.conf
touch recovery.signal
chown -R postgres .
END
begun=$(date +%s%N)
docker exec -u postgres "$t" sh -c 'cd /var/lib/postgresql/data/hand
  pg_ctl -D . -w -t 3600 -l /tmp/log start >/dev/null
  until [ "$(psql -XAtq -U nocodb -d postgres -c "SELECT pg_is_in_recovery()")" = f ]
  do sleep 0.1; done'
echo "replayed $((($(date +%s%N) - begun) / 1000000))"
docker exec "$1" createdb -U nocodb by_hand
docker exec "$t" pg_dump -U nocodb -Fc "$3" | docker exec -i "$1" pg_restore -U nocodb -d by_hand
"""
OURS = """
/usr/local/bin/restore-pg.sh restore --config "$4" --database "$3" --at end --into by_script 2>&1
"""


def main() -> int:
    """Prepare, measure, remove."""
    with switched_on() as on:
        subject = Subject(on.lab, "bench_replay", FOLDER)
        try:
            subject.prepare(ROOT / "bench/backup/fill.sql", rows=ROWS)
            on.install()
            on.cron("stop")
            on.alone("archive")
            on.alone("base")
            subject.sql(LOAD, subject.database)
            on.alone("archive")
            of = (FOLDER, cluster_of(subject))
            docker.inside(on.node, "bash", "-c", FETCH, "bench", *of, timeout=600)
            whole: dict[str, list[float]] = {BY_HAND: [], OURS: []}
            replay: dict[str, list[float]] = {BY_HAND: [], OURS: []}
            words = (container_of(subject), FOLDER, subject.database, subject.config)
            for number in in_turn(range(2 * ROUNDS), "restores"):
                script = (BY_HAND, OURS)[number % 2]
                for name in ("by_hand", "by_script"):
                    subject.sql(f"DROP DATABASE IF EXISTS {name}")
                start = time.monotonic()
                said = docker.inside(on.node, "bash", "-c", script, "bench", *words, timeout=1800)
                whole[script].append(time.monotonic() - start)
                replay[script].append(_replayed(said))
                print(f"  {whole[script][-1]:.1f} s, replay {replay[script][-1]:.1f} s", flush=True)
        finally:
            on.cron("start")
            subject.remove("by_hand", "by_script")
    by_hand, ours = (statistics.median(whole[one]) for one in (BY_HAND, OURS))
    hand_replay, our_replay = (statistics.median(replay[one]) for one in (BY_HAND, OURS))
    print(f"replay of 1 GB of WAL     {hand_replay:6.1f} s by hand, {our_replay:.1f} s")
    print(f"one database to a point   {by_hand:6.1f} s by hand, {ours:.1f} s with all checks")
    replays, restores = our_replay / hand_replay, ours / by_hand
    return print_goals(
        (replays <= MOST_REPLAY, f"replay {replays:.2f} times (at most {MOST_REPLAY})"),
        (restores <= MOST_RESTORE, f"restore {restores:.2f} times (at most {MOST_RESTORE:.0f})"),
    )


def _replayed(said: str) -> float:
    """Seconds, from what either has printed."""
    if by_hand := re.search(r"^replayed (\d+)$", said, re.MULTILINE):
        return int(by_hand[1]) / 1000
    found = re.search(r"replayed segments=\d+ seconds=([0-9.]+)", said)
    assert found, said
    return float(found[1])


if __name__ == "__main__":
    end(main)
