"""restore-pg.sh on the db host, as seen from here: commands, log, progress, verdict."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabfile.backup import container
from fabfile.backup.host_files import guard
from fabfile.backup.host_install import check_owner
from fabfile.backup.host_kit import RESTORE, kit_of
from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError, UnreachableError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result

if TYPE_CHECKING:
    from fabfile.vault.backup_identity import Identity

UPLOAD_FAILED, NO_SET, BAD_SET, ROWS_DIFFER, DOWNLOAD_FAILED, OUT_OF_REACH = 18, 20, 21, 25, 28, 29
NO_IDENTITY = 34
"""Exit codes of restore-pg.sh: the bucket refuses a drill's outcome; there is no such set; it is
damaged; its rows are not all there; the bucket cannot be read; no WAL leads to that time; it is
encrypted, and no identity fits."""
_NOT_INSTALLED = 127
_ERRORS: dict[int, type[SwarmkeepError]] = {
    UPLOAD_FAILED: UnreachableError,
    NO_SET: CheckFailedError,
    BAD_SET: CheckFailedError,
    ROWS_DIFFER: CheckFailedError,
    DOWNLOAD_FAILED: UnreachableError,
    OUT_OF_REACH: CheckFailedError,
    NO_IDENTITY: ConfigError,
}
_LINE = re.compile(r"\S+Z (INFO|WARNING|ERROR) run=\S+ (.*)")
_FACT = re.compile(r"\b(tables|rows|seconds)=(\d+)")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """How far a run is: `done` of `total` bytes of a phase, both 0 where it has no bytes."""

    phase: str
    done: int
    total: int


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Restored:
    """What a restore or a drill has found: tables and rows counted, seconds taken."""

    tables: int
    rows: int
    seconds: int


def restore_command(
    database: str, source: Sequence[str], into: str, jobs: int, *, goes_live: bool = False
) -> str:
    """The script's arguments that restore a `source` into a new database; `jobs` 0: as the host
    likes. The source is ("--set", STAMP), ("--at", TIME) or ("--at-mark", NAME).

    Where it `goes_live`, it has the planner's statistics from its first moment on.
    """
    words = ["restore", "--database", database, *source, "--into", into]
    words += ["--jobs", str(jobs)] if jobs else []
    return shlex.join([*words, *(["--analyze"] if goes_live else []), "--progress"])


def drill_command(database: str, stamp: str, app: Sequence[str]) -> str:
    """The script's arguments that drill a set; `app`: those that start its app, or none."""
    return shlex.join(["drill", "--database", database, "--set", stamp, *app, "--progress"])


def replay_drill_command(database: str, source: Sequence[str]) -> str:
    """The script's arguments that replay base backup and WAL to a point in time, as a proof."""
    return shlex.join(["drill", "--database", database, *source, "--progress"])


def swap_command(database: str, other: str, keep_as: str) -> str:
    """The script's arguments that let another database take a database's name."""
    return shlex.join(["swap", "--database", database, "--with", other, "--keep-as", keep_as])


def run(
    host: Host,
    line: str,
    say: Say,
    on_step: OnStep = lambda _step: None,
    identity: Identity | None = None,
) -> Restored:
    """Run the script with such arguments. `say` gets what it logs, `on_step` how far it is.
    `identity` reads what is encrypted: it goes through stdin.

    Raises SwarmkeepError with the script's own reason and advice.
    """
    log: list[tuple[str, str]] = []

    def read(text: str) -> None:
        words = text.split()
        if len(words) == 4 and words[0] == "progress":
            on_step(Step(words[1], _number(words[2]), _number(words[3])))
            return
        match = _LINE.fullmatch(text)
        level, message = match.groups() if match else ("INFO", text)
        log.append((level, message))
        if level != "ERROR":
            say(f"warning: {message}" if level == "WARNING" else message)

    kit = kit_of(host.entry, host.inventory)
    # Settings of another project would lead to another database.
    secret = b""
    if identity:
        line, secret = f"{line} --identity", identity.private.reveal().encode()
    if container.is_used(host.inventory):
        script = container.script(host, RESTORE, line)
    else:
        script = f"{guard(kit, host.inventory)}exec {RESTORE} {line} --config {kit.config} 2>&1"
    command = Command(script, stdin=secret)
    result = host.run(command, timeout=RUN_TIMEOUT, on_line=read)
    check_owner(result, kit)
    if result.exit_code:
        raise _error(result, [message for level, message in log if level == "ERROR"])
    facts = dict(_FACT.findall(log[-1][1] if log else ""))
    return Restored(*(int(facts.get(name, 0)) for name in ("tables", "rows", "seconds")))


def _error(result: Result, reasons: list[str]) -> SwarmkeepError:
    if result.exit_code == _NOT_INSTALLED:
        return SwarmkeepError(
            f"{result.host}: {RESTORE} is not installed", hint="install it: inv backup.install"
        )
    said = reasons or result.stdout.strip().splitlines()[-1:] or ["it said nothing"]
    message, _, advice = said[-1].partition("; next: ")
    kind = _ERRORS.get(result.exit_code, SwarmkeepError)
    return kind(f"{result.host}: {message}", hint=advice, details=tuple(said[:-1]))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
