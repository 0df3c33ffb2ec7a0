"""Having pg_restore read an archive to its end: on this machine, or in the database's container.

`pg_restore -f /dev/null` reads every block of an archive and writes what it would restore
to nowhere: it notices one missing byte, which `pg_restore --list` does not.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from fabfile.backup.deep_read import NOT_CHECKED, Reading, Verdict
from fabfile.base.errors import UnreachableError
from fabfile.ssh.remote_command import Command

if TYPE_CHECKING:
    from fabfile.ssh.fleet import Host

_TOO_NEW = ("unsupported version", "does not support compression", "compression is not supported")
_ARGUMENTS = ["pg_restore", "-f", os.devnull]
_HEARTBEAT = 15
"""Seconds between two signs of life of a check on a host: it is silent while it reads."""


def can_read_here(head: bytes) -> bool:
    """Whether this machine has a pg_restore new enough for an archive that starts like this."""
    if not shutil.which(_ARGUMENTS[0]):
        return False
    # Cut off as it is, the archive is refused either way: what counts is the reason.
    run = subprocess.run(_ARGUMENTS, input=head, capture_output=True, env=_english(), check=False)
    return not any(sign in run.stderr.decode(errors="replace") for sign in _TOO_NEW)


def read_here(reading: Reading) -> Verdict:
    """Have this machine's pg_restore read an archive."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _ARGUMENTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=_english(),
        )
        try:
            with process:
                _feed(process, reading)
        except BrokenPipeError:
            # It stopped reading: its exit code and its words say why.
            pass
        errors.seek(0)
        return _verdict(process.returncode, errors.read().decode(errors="replace"), "here")


def _feed(process: subprocess.Popen[bytes], reading: Reading) -> None:
    assert process.stdin
    try:
        for block in reading.plain():
            process.stdin.write(block)
    except BrokenPipeError:
        raise
    except BaseException:
        # It must not take what it has got so far for all of it.
        process.kill()
        raise


def find_container(service: str) -> Command:
    """The command that prints the id of a service's container on a host, or nothing."""
    label = shlex.quote(f"label=com.docker.swarm.service.name={service}")
    return Command(
        f"docker ps -q --filter {label} --filter status=running | head -n 1", changes=False
    )


def read_in_container(container: str) -> Command:
    """The command that has a container's pg_restore read a gzipped archive from stdin."""
    return Command(
        # The sleep holds no output of ours: the channel would stay open as long as it lasts.
        f"(while sleep {_HEARTBEAT} >/dev/null 2>&1; do echo reading; done) & alive=$!\n"
        f"gzip -dc | docker exec -i -e LC_ALL=C {shlex.quote(container)} "
        "pg_restore -f /dev/null\n"
        "code=$?; kill $alive; exit $code",
        changes=False,
    )


def read_on(host: Host, container: str, reading: Reading) -> Verdict:
    """Have the pg_restore in a host's container read an archive; its bytes travel compressed."""
    try:
        result = host.feed(read_in_container(container), reading.packed())
    except UnreachableError as error:
        if reading.failed:
            raise
        return Verdict(False, f"{NOT_CHECKED}: {error.message}", error.hint)
    return _verdict(result.exit_code, result.stderr, f"on {host.name}")


def _verdict(code: int, errors: str, where: str) -> Verdict:
    if code == 0:
        return Verdict(True, f"pg_restore has read it to its end {where}")
    said = errors.strip().splitlines()
    reason = said[-1] if said else f"exit code {code}"
    return Verdict(False, f"pg_restore {where} cannot read it: {reason}")


def _english() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
