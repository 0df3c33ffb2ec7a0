"""pg_restore as the judge of an archive: here, or in a container. Programs on PATH stand in."""

from __future__ import annotations

import gzip
import subprocess
import time
from pathlib import Path

import pytest

from fabfile.backup import pg_restore_read
from fabfile.backup.deep_read import Reading
from fabfile.base.errors import UnreachableError
from fabfile.ssh.remote_command import Result

ARCHIVE = b"PGDMP" + bytes(range(256)) * 4000 + b"END"
PACKED = gzip.compress(ARCHIVE)
SERVICE = "dbstack_root_db"

# Like pg_restore: reads a file to its end, takes only what starts with PGDMP and ends with END.
PG_RESTORE = """#!/bin/sh
[ "$*" = "-f /dev/null" ] || { echo "pg_restore: error: unexpected: $*" >&2; exit 2; }
cat >"$0.got"
[ "$(head -c 5 "$0.got")" = PGDMP ] || { echo "pg_restore: error: not an archive" >&2; exit 1; }
[ "$(tail -c 3 "$0.got")" = END ] || { echo "pg_restore: error: end of file" >&2; exit 1; }
"""
TOO_OLD = """#!/bin/sh
echo "pg_restore: error: unsupported version (1.16) in file header" >&2
exit 1
"""
DOCKER = """#!/bin/sh
[ "$1 $2 $3 $4 $5" = "exec -i -e LC_ALL=C c0ffee" ] || { echo "unexpected: $*" >&2; exit 9; }
shift 5
exec "$@"
"""


@pytest.fixture
def bin_dir(tmp_path, monkeypatch):
    """A folder that is in front of everything else on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def install(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def reading(data: bytes = PACKED) -> Reading:
    return Reading(data[i : i + 1000] for i in range(0, len(data), 1000))


def test_a_whole_archive_is_read_here(bin_dir):
    program = install(bin_dir, "pg_restore", PG_RESTORE)
    verdict = pg_restore_read.read_here(reading())
    assert verdict.ok
    assert program.with_suffix(".got").read_bytes() == ARCHIVE


def test_a_truncated_archive_is_refused_with_pg_restores_words(bin_dir):
    install(bin_dir, "pg_restore", PG_RESTORE)
    verdict = pg_restore_read.read_here(reading(gzip.compress(ARCHIVE[:-1])))
    assert not verdict.ok
    assert "end of file" in verdict.detail


def test_a_pg_restore_that_stops_reading_is_a_verdict_too(bin_dir):
    install(bin_dir, "pg_restore", "#!/bin/sh\necho 'pg_restore: error: bad block' >&2\nexit 1\n")
    many = reading(gzip.compress(b"PGDMP" + bytes(5_000_000), 1))
    verdict = pg_restore_read.read_here(many)
    assert not verdict.ok
    assert "bad block" in verdict.detail


def test_when_the_source_fails_pg_restore_does_not_judge_what_it_got(bin_dir):
    install(bin_dir, "pg_restore", PG_RESTORE)

    def blocks():
        yield PACKED[:500]
        raise UnreachableError("the bucket is gone")

    with pytest.raises(UnreachableError, match="bucket is gone"):
        pg_restore_read.read_here(Reading(blocks()))


def test_can_read_here_asks_pg_restore_itself(bin_dir):
    install(bin_dir, "pg_restore", PG_RESTORE)
    assert pg_restore_read.can_read_here(ARCHIVE[:4096])
    install(bin_dir, "pg_restore", TOO_OLD)
    assert not pg_restore_read.can_read_here(ARCHIVE[:4096])


def test_without_pg_restore_nothing_can_be_read_here(bin_dir, monkeypatch):
    monkeypatch.setenv("PATH", str(bin_dir))
    assert not pg_restore_read.can_read_here(ARCHIVE[:4096])


def test_the_container_is_found_by_label_and_state():
    command = pg_restore_read.find_container(SERVICE)
    assert not command.changes
    assert command.script == (
        "docker ps -q --filter label=com.docker.swarm.service.name=dbstack_root_db "
        "--filter status=running | head -n 1"
    )
    assert (
        "'label=com.docker.swarm.service.name=a b'" in pg_restore_read.find_container("a b").script
    )


class Host:
    """Runs a command's script on this machine, as the transport does on another."""

    name = "db1"

    def __init__(self, error=None):
        self.error = error

    def feed(self, command, chunks, **_):
        assert not command.changes
        with subprocess.Popen(
            ["sh", "-c", command.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            for chunk in chunks:
                process.stdin.write(chunk)
            if self.error:
                raise self.error
            out, err = process.communicate()
        return Result(self.name, process.returncode, out.decode(), err.decode())


def test_a_whole_archive_is_read_in_the_container_at_once(bin_dir):
    program = install(bin_dir, "pg_restore", PG_RESTORE)
    install(bin_dir, "docker", DOCKER)
    started = time.monotonic()
    verdict = pg_restore_read.read_on(Host(), "c0ffee", reading())
    assert verdict.ok
    assert "on db1" in verdict.detail
    assert program.with_suffix(".got").read_bytes() == ARCHIVE
    # Its signs of life (every 15 s) must not keep the channel open.
    assert time.monotonic() - started < 10


def test_a_truncated_archive_is_refused_in_the_container(bin_dir):
    install(bin_dir, "pg_restore", PG_RESTORE)
    install(bin_dir, "docker", DOCKER)
    verdict = pg_restore_read.read_on(Host(), "c0ffee", reading(gzip.compress(ARCHIVE[:-1])))
    assert not verdict.ok
    assert "end of file" in verdict.detail


def test_a_lost_host_means_not_checked(bin_dir):
    install(bin_dir, "pg_restore", PG_RESTORE)
    install(bin_dir, "docker", DOCKER)
    gone = UnreachableError("db1: the connection was lost", hint="run again")
    verdict = pg_restore_read.read_on(Host(gone), "c0ffee", reading())
    assert not verdict.ok
    assert "not checked: db1: the connection was lost" in verdict.detail


def test_a_lost_bucket_is_not_the_hosts_fault(bin_dir):
    install(bin_dir, "pg_restore", PG_RESTORE)
    install(bin_dir, "docker", DOCKER)

    def blocks():
        yield PACKED[:500]
        raise UnreachableError("the bucket is gone")

    with pytest.raises(UnreachableError, match="bucket is gone"):
        pg_restore_read.read_on(Host(), "c0ffee", Reading(blocks()))
