"""How much is lost when container and volume of PostgreSQL are destroyed under load.

A client writes rows one after the other and notes when each was acknowledged. Then the node loses
all at once: the archiver is killed, the container killed, the volume removed. `inv recover` brings
back what the bucket has; the time between the newest row there and the loss is what was lost. With
an intact volume (the container alone is killed) nothing may be missing.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.backup.subject import Subject, end, inv
from bench.pitr.switched_on import SwitchedOn, container_of, print_goals, switched_on
from bench.progress import in_turn
from lab import docker

ROUNDS = 3
SLACK = {60: 5.0, 2: 2.0}
"""Seconds that may be lost beyond the tick, by tick."""
# Each statement is a transaction of its own: its line comes once it is committed.
WRITES = "".join(
    f"INSERT INTO ledger VALUES ({n}) RETURNING n; SELECT FROM pg_sleep(0.02);\n"  # noqa: S608
    for n in range(20_000)
)


@contextmanager
def written(subject: Subject) -> Iterator[dict[int, float]]:
    """A client that writes; row -> when it was acknowledged (Unix time)."""
    acknowledged: dict[int, float] = {}
    argv = ["docker", "exec", "-i", subject.node, "docker", "exec", "-i", container_of(subject)]
    argv += ["psql", "-XAtq", "-U", "nocodb", "-d", "nocodb"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as client:
        assert client.stdin
        assert client.stdout
        lines = client.stdout

        def read() -> None:
            for line in lines:
                if line.strip():
                    acknowledged[int(line)] = time.time()

        reader = threading.Thread(target=read)
        reader.start()
        feeder = threading.Thread(target=_feed, args=(client,))
        feeder.start()
        try:
            yield acknowledged
        finally:
            client.kill()
            reader.join(30)
            feeder.join(30)


def _feed(client: subprocess.Popen[str]) -> None:
    try:
        assert client.stdin
        client.stdin.write(WRITES)
        client.stdin.flush()
    except OSError:
        pass  # the server is gone: that is what it is about


def lost(on: SwitchedOn, subject: Subject, tick: int, round_: int) -> float:
    """Seconds that are lost with container and volume, for one tick."""
    on.install(wal_tick=f"{tick}s")
    on.alone("archive")
    on.alone("base")
    inv("backup.run", env=on.environment)
    subject.sql("DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (n int PRIMARY KEY)", "nocodb")
    with written(subject) as acknowledged:
        # Just before what the next run uploads is there: at another time less is lost.
        time.sleep(60 + 61 - time.time() % 60 + 0.3 * round_)
        container = container_of(subject)
        on.cron("stop")
        subprocess.run(
            ["docker", "exec", subject.node, "pkill", "-KILL", "-f", "wal-pg.sh"], check=False
        )
        docker.inside(subject.node, "docker", "kill", container)
        at = time.time()
    manager = on.lab.container("manager1")
    docker.inside(manager, "docker", "service", "rm", "dbstack_root_db")
    gone = "until docker volume rm dbstack_pgdata 2>/dev/null; do sleep 0.5; done"
    docker.inside(subject.node, "sh", "-c", gone, timeout=120)
    on.cron("start")
    inv("recover", "--yes", env=on.environment)
    there = set(map(int, subject.sql("SELECT n FROM ledger", "nocodb").split()))
    assert there == set(range(len(there))), "rows are missing in between"
    seconds = at - acknowledged[max(there)]
    print(f"tick {tick:2} s: {len(acknowledged)} rows acknowledged, the last {seconds:.2f} s lost")
    return seconds


def lost_with_volume(subject: Subject) -> int:
    """How many acknowledged rows are missing after the container alone was killed."""
    subject.sql("DROP TABLE IF EXISTS ledger; CREATE TABLE ledger (n int PRIMARY KEY)", "nocodb")
    with written(subject) as acknowledged:
        time.sleep(5)
        docker.inside(subject.node, "docker", "kill", container_of(subject))
    deadline = time.monotonic() + 120
    while not container_of(subject) and time.monotonic() < deadline:
        time.sleep(0.5)
    ready = f"until docker exec {container_of(subject)} pg_isready -q; do sleep 0.5; done"
    docker.inside(subject.node, "sh", "-c", ready, timeout=120)
    there = set(map(int, subject.sql("SELECT n FROM ledger", "nocodb").split()))
    missing = len(set(acknowledged) - there)
    print(f"container killed, volume intact: {len(acknowledged)} acknowledged, {missing} missing")
    return missing


def main() -> int:
    """Prepare, measure, leave the lab's database as recovered."""
    with switched_on() as on:
        subject = Subject(on.lab, "bench_loss", "/var/backups/bench-loss")
        missing = lost_with_volume(subject)
        most = {
            tick: max(lost(on, subject, tick, n) for n in in_turn(range(ROUNDS), f"tick {tick} s"))
            for tick in SLACK
        }
        subject.sql("DROP TABLE ledger", "nocodb")
    return print_goals(
        (missing == 0, f"{missing} commits lost with the container alone (0)"),
        *(
            (most[tick] <= tick + slack, f"tick {tick} s: {most[tick]:.1f} s lost at most "
             f"(goal {tick + slack:.0f})")
            for tick, slack in SLACK.items()
        ),
    )  # fmt: skip


if __name__ == "__main__":
    end(main)
