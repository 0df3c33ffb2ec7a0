"""What `inv upgrade-db` costs: how long NocoDB does not answer, against the plain pipeline.

Run as `make bench-upgrade`; needs root and the lab, which it brings up. The plain way is
`pg_dump | pg_restore` between the two servers' containers, plus the start of both services, for
which `inv upgrade-db --undo` stands: it exchanges image and volume and copies nothing. The plain
way keeps no writer away and compares nothing. Exit code 1 if the goal is missed.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys

from bench.backup.subject import NODE, ROOT, SERVICE, Subject, end, inv
from bench.backup.watch import run
from bench.progress import in_turn
from fabfile.base.errors import SwarmkeepError
from fabfile.upgrade.database import removal
from lab import docker, images
from lab.model import DEFAULT_NAME, Lab
from lab.progress import Progress

SIZES = {"tables": 80, "rows": 12_000, "big": 150_000}
ROUNDS = 3
GOAL_RATIO = 1.2
TARGET = images.POSTGRES_17.tag.rpartition(":")[2]

PLAIN = f"""set -e
old=$(docker ps -q --filter label=com.docker.swarm.service.name={SERVICE})
new=$(docker run -d --name bench_new -e POSTGRES_USER=nocodb -e POSTGRES_HOST_AUTH_METHOD=trust \\
  {images.POSTGRES_17.tag})
trap 'docker rm -fv bench_new >/dev/null' EXIT
until docker exec "$new" pg_isready -qh 127.0.0.1; do sleep 0.2; done
docker exec "$new" createdb -U nocodb -T template0 "$1"
start=$(date +%s.%N)
docker exec "$old" pg_dump -U nocodb -Fc -Z0 "$1" |
  docker exec -i "$new" pg_restore -U nocodb --exit-on-error -d "$1"
echo "took $(echo "$(date +%s.%N) $start" | awk '{{ print $1 - $2 }}')"
"""


def stopped(lab: Lab, *words: str) -> float:
    """Run `inv upgrade-db ...`; for how many seconds it says that NocoDB was stopped."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "upgrade-db", *words, "--yes"],
        cwd=ROOT, env=lab.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"NocoDB was stopped for (?:(\d+)m ?)?(?:([\d.]+)s)?", done.stdout)
    if done.returncode or found is None:
        raise SwarmkeepError(
            f"inv upgrade-db {words[0]} failed with exit code {done.returncode}",
            details=tuple((done.stdout + done.stderr).splitlines()[-8:]),
        )
    return int(found[1] or 0) * 60 + float(found[2] or 0)


def measure(subject: Subject) -> int:
    """Run everything in turn and print it; the exit code."""
    lab = subject.lab
    plain, ours, starts = [], [], []
    for _ in in_turn(range(ROUNDS), "rounds"):
        done = run(subject.node, "/var/tmp", "bash", "-c", PLAIN, "bash", subject.database)  # noqa: S108 - a disk to watch
        if done.exit_code:
            raise SwarmkeepError("the plain pipeline failed", details=(done.output[-500:],))
        plain.append(float(done.output.rpartition("took ")[2].split()[0]))
        ours.append(stopped(lab, TARGET))
        starts.append(stopped(lab, "--undo"))
        docker.inside(subject.node, "sh", "-c", removal("dbstack_pgdata_17"))
        inv("backup.drill", env=lab.environment())
        print(
            f"  pg_dump | pg_restore {plain[-1]:.1f} s, start of both services {starts[-1]:.0f} s, "
            f"inv upgrade-db {ours[-1]:.0f} s",
            flush=True,
        )
    both = statistics.median(plain) + statistics.median(starts)
    ratio = statistics.median(ours) / both
    good = ratio <= GOAL_RATIO
    print(
        f"{'ok' if good else 'MISSED'}  NocoDB was stopped for {ratio:.2f} times the plain "
        f"pipeline plus the start of both services (goal at most {GOAL_RATIO})"
    )
    return int(not good)


def main() -> int:
    """Prepare, measure, remove."""
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME
    inv("lab.up", "--name", name)
    lab = Lab.load(name)
    with Progress(print) as progress:
        images.ensure(progress, (images.POSTGRES_17,))
    tag = images.POSTGRES_17.tag
    docker.pipe(("save", tag), ("exec", "--interactive", lab.container(NODE), "docker", "load"))
    subject = Subject(lab, "bench_upgrade", "/var/backups/bench")
    try:
        subject.prepare(ROOT / "bench/backup/many_tables.sql", **SIZES)
        for command in ("deploy-app", "backup.run", "backup.drill"):
            inv(command, env=lab.environment())
        return measure(subject)
    finally:
        subject.remove()


if __name__ == "__main__":
    end(main)
