"""The audit log on the managers: one JSON line per command that changed, or tried to change."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fabfile.base import json_text
from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Fleet, Host, values
from fabfile.ssh.remote_command import Command
from fabfile.swarm.operator import Origin


def path(project: str) -> str:
    """Where a project's log is on a manager; "" is the project without a name."""
    return f"/var/log/swarmkeep-audit{project and '-'}{project}.jsonl"


def entry(
    origin: Origin,
    command: str,
    outcome: str,
    *,
    stack: str = "",
    changes: Sequence[str] = (),
    error: str = "",
    seconds: float | None = None,
    release: int | None = None,
) -> dict[str, Any]:
    """One line of the log, without its time, which is the manager's. Never holds a secret.

    `outcome` is "ok" or "failed"; `error` must have been redacted.
    """
    line: dict[str, Any] = {"command": command, "outcome": outcome, "who": origin.who}
    optional = {
        "stack": stack,
        "release": release,
        "changes": list(changes),
        "error": error,
        "seconds": None if seconds is None else round(seconds, 1),
        "commit": origin.commit,
    }
    return line | {key: value for key, value in optional.items() if value not in ("", None, [])}


def append_script(line: dict[str, Any], project: str) -> str:
    """The script that appends a line; a log that cannot be written stops nothing."""
    rest = json.dumps(line, ensure_ascii=False)[1:]
    return (
        '(umask 077; printf \'{"time": "%s", %s\\n\' '
        f'"$(date -u +%Y-%m-%dT%H:%M:%SZ)" {shlex.quote(rest)} >>{path(project)}) || :\n'
    )


def write(manager: Host, script: str) -> None:
    """Run what `append_script` returned on a manager, in a round trip of its own."""
    manager.run(Command(script))


def reason(error: BaseException) -> str:
    """What the log says about what ended a command; never the text of an unknown exception."""
    if isinstance(error, SwarmkeepError):
        return error.message
    return "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__


@dataclass(frozen=True)
class Log:
    """What was read: entries by time, each with its manager, and how many lines of which manager
    are none.
    """

    entries: list[dict[str, Any]]
    damaged: Mapping[str, int]


def read(fleet: Fleet, lines: int) -> Log:
    """The last lines of every manager's log, the oldest first.

    Managers that cannot be reached are left out as long as one can.
    """
    file = path(fleet.inventory.project)
    script = f"[ ! -e {file} ] || tail -n {lines} {file}"
    outcomes = fleet.fan_out(
        fleet.inventory.managers(),
        lambda host: host.check(Command(script, changes=False), "reading the audit log").stdout,
    )
    found = [outcome for outcome in outcomes if outcome.value is not None]
    texts = values(found or outcomes)
    log = parse((outcome.entry.name, text) for outcome, text in zip(found, texts, strict=True))
    return replace(log, entries=log.entries[-lines:])


def parse(texts: Iterable[tuple[str, str]]) -> Log:
    """Given each manager's name and lines, return what is in them.

    A line that is no entry is left out: a full disk or a power failure may have cut it off.
    """
    entries = []
    damaged: Counter[str] = Counter()
    for manager, text in texts:
        for line in text.split("\n"):
            if not line.strip():
                continue
            try:
                item = json_text.parse(line)
                entries.append({"time": item["time"], "manager": manager} | item)
            except (ValueError, KeyError, TypeError):
                damaged[manager] += 1
    return Log(sorted(entries, key=lambda item: str(item["time"])), damaged)
