"""A script on the db host, run by hand: its log for people, and its own reason if it fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from fabfile.backup import container
from fabfile.backup.host_files import guard
from fabfile.backup.host_install import check_owner
from fabfile.backup.host_kit import kit_of
from fabfile.backup.host_run import RUN_TIMEOUT
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command, Result

USAGE = 2
"""The scripts' exit code for words that they do not know."""
_NOT_INSTALLED = 127
_LINE = re.compile(r"\S+Z (INFO|WARNING|ERROR) run=\S+ (.*)")

Say = Callable[[str], None]
Kinds = Mapping[int, type[SwarmkeepError]]


class LogReader:
    """Sorts what a script prints: `say` gets its log, `heard` every line that is not of it."""

    def __init__(self, say: Say, heard: Say = lambda _line: None) -> None:
        self.errors: list[str] = []
        self.rest: list[str] = []
        self._say = say
        self._heard = heard

    def read(self, text: str) -> None:
        """Take a line."""
        match = _LINE.fullmatch(text)
        if match is None:
            self.rest.append(text)
            self._heard(text)
        elif match[1] == "ERROR":
            self.errors.append(match[2])
        else:
            self._say(f"warning: {match[2]}" if match[1] == "WARNING" else match[2])


def command(host: Host, script: str, line: str) -> str:
    """What runs a script with such arguments and this project's settings."""
    kit = kit_of(host.entry, host.inventory)
    if container.is_used(host.inventory):
        return container.script(host, script, line)
    return (
        # Settings of another project would lead to another database.
        f"{guard(kit, host.inventory)}"
        f"[ -x {script} ] || {{ echo 'not installed' >&2; exit {_NOT_INSTALLED}; }}\n"
        f"exec {script} {line}{f' --config {kit.config}' if kit.project else ''} 2>&1"
    )


def run(host: Host, script: str, line: str, say: Say, kinds: Kinds | None = None) -> str:
    """Run a script to its end; return what it printed that is no line of its log.

    Raises SwarmkeepError with the script's own reason and advice.
    """
    reader = LogReader(say)
    text = command(host, script, line)
    result = host.run(Command(text), timeout=RUN_TIMEOUT, on_line=reader.read)
    check(host, script, line, result, reader.errors, kinds)
    return "\n".join(reader.rest)


def check(
    host: Host,
    script: str,
    line: str,
    result: Result,
    errors: Iterable[str],
    kinds: Kinds | None = None,
) -> None:
    """Raise the kind of SwarmkeepError that an exit code stands for, unless it is 0."""
    check_owner(result, kit_of(host.entry, host.inventory))
    if result.exit_code == 0:
        return
    if result.exit_code == _NOT_INSTALLED:
        raise SwarmkeepError(
            f"{host.name}: {script} is not installed", hint="install it: inv backup.install"
        )
    said = list(errors)
    if result.exit_code == USAGE and not said:
        raise SwarmkeepError(
            f"{host.name}: {script} is of an earlier version and does not know '{line}'",
            hint="install this one: inv backup.install",
        )
    said = said or result.stdout.strip().splitlines()[-1:] or ["it said nothing"]
    message, _, advice = said[-1].partition("; next: ")
    kind = (kinds or {}).get(result.exit_code, SwarmkeepError)
    raise kind(f"{host.name}: {message}", hint=advice, details=tuple(said[:-1]))
