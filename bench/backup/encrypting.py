"""What encryption costs: a backup and a restore with recipients, against the same without.

Run as part of `make bench-backup`; needs root and the lab, which it brings up. Exit code 1 if a
goal is missed.
"""

from __future__ import annotations

import sys

from bench.backup.restoring import SIZES, Way
from bench.backup.subject import ROOT, Subject, end, inv
from bench.progress import in_turn
from fabfile.base import age_encryption
from fabfile.terminal.tables import table
from lab import docker
from lab.model import DEFAULT_NAME, Lab

ROUNDS = 3
FOLDER = "/var/backups/bench"
RESTORED = "bench_restored"
GOAL_RATIO = 1.10
BACKUP, RESTORE = "/usr/local/bin/backup-pg.sh", "/usr/local/bin/restore-pg.sh"
# From the bucket, not from the local copy.
FROM_BUCKET = (
    'mkdir -p "$0/aside" && mv "$0"/backup_* "$0/aside"; "${@:2}" <"$1"; '
    'code=$?; mv "$0"/aside/* "$0"; exit $code'
)


def measure(subject: Subject) -> int:
    """Run everything in turn and print it; the exit code."""
    private, public = age_encryption.generate()
    others = [age_encryption.generate()[1] for _ in range(2)]
    docker.inside(subject.node, "sh", "-c", "command -v age || apt-get install -y -qq age")
    encrypted, identity = f"{subject.config}.encrypted", f"{FOLDER}/identity"
    clear = docker.inside(subject.node, "cat", subject.config)
    subject.put(encrypted, f"{clear}RECIPIENTS='{','.join([public, *others])}'\n")
    subject.put(identity, f"{private}\n")
    folder = f"{FOLDER}/{subject.database}"

    def backup(name: str, config: str) -> Way:
        return Way(name, (BACKUP, "--config", config))

    def restore(name: str, made: Way, config: str, stdin: str, *more: str) -> Way:
        key = made.runs[-1].output.rpartition("key=")[2].split()[0]
        stamp = key.rpartition("backup_")[2].partition(".")[0]
        which = ("--database", subject.database, "--set", stamp, "--into", RESTORED)
        words = (RESTORE, "restore", "--config", config, *which, *more)
        return Way(name, ("bash", "-c", FROM_BUCKET, folder, stdin, *words), RESTORED)

    plain, coded = backup("backup", subject.config), backup("backup, encrypted", encrypted)
    for _ in in_turn(range(ROUNDS), "rounds of backups"):
        plain.go(subject)
        coded.go(subject)
    back = restore("restore", plain, subject.config, "/dev/null")
    coded_back = restore("restore, encrypted", coded, encrypted, identity, "--identity")
    for _ in in_turn(range(ROUNDS), "rounds of restores"):
        back.go(subject)
        coded_back.go(subject)
    docker.inside(subject.node, "rm", "-f", encrypted)
    rows, missed = [], False
    for one, other in ((plain, coded), (back, coded_back)):
        ratio = other.seconds / one.seconds
        missed = missed or ratio > GOAL_RATIO
        rows.append([one.name, f"{one.seconds:.1f}", f"{other.seconds:.1f}", f"{ratio:.2f}"])
    print(table(["", "seconds (median)", "encrypted", "times"], rows))
    print(f"{'MISSED' if missed else 'ok'}  encrypted at most {GOAL_RATIO} times each")
    return int(missed)


def main() -> int:
    """Prepare, measure, remove."""
    name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_NAME
    inv("lab.up", "--name", name)
    subject = Subject(Lab.load(name), "bench_encrypt", FOLDER)
    try:
        subject.prepare(ROOT / "bench/backup/many_tables.sql", **SIZES)
        subject.sql(f"DROP DATABASE IF EXISTS {RESTORED} WITH (FORCE)")
        return measure(subject)
    finally:
        subject.remove(RESTORED)


if __name__ == "__main__":
    end(main)
