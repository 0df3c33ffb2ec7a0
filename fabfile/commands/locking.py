"""inv unlock, audit."""

from __future__ import annotations

import sys
from typing import Any

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.commands.plan import JSON_HELP
from fabfile.terminal.command import command, is_dry, read_inventory, sudo_password


@command(help={"yes": "do not ask"})
def unlock(ctx: Context, hosts: str = "", yes: bool = False) -> None:
    """Take the deploy lock away from a client that is gone."""
    inventory = read_inventory(hosts)

    from fabfile.deploy.observation import observe_any
    from fabfile.ssh.fleet import connect
    from fabfile.swarm import audit_log as audit
    from fabfile.swarm import deploy_lock, operator
    from fabfile.terminal.deploy_dialog import ask

    with connect(inventory, sudo_password=sudo_password(ctx), dry=is_dry(ctx), echo=print) as fleet:
        manager = observe_any(fleet)[0]
        holder = deploy_lock.peek(manager)
        if holder is None:
            print("unlock: nobody holds the lock")
            return
        print(f"the lock is held by {holder}")
        refusal = f"unlock: this ends the lock of {holder.who}"
        ask("Remove it? Its deploy will stop at its next step.", yes=yes, refusal=refusal)
        if not deploy_lock.take_away(manager, holder):
            print("unlock: it was released a moment ago")
            return
        if fleet.dry:
            return
        change = f"lock of {holder.who} for '{holder.why}' removed"
        entry = audit.entry(operator.find(), "unlock", "ok", changes=[change])
        audit.write(manager, audit.append_script(entry, inventory.project))
    print("unlock: the lock is free")


@command(name="audit", help={"lines": "how many of the last lines", "json": JSON_HELP})
def audit_log(ctx: Context, hosts: str = "", lines: int = 20, json: bool = False) -> None:
    """Show who changed what, and how it ended."""
    if lines < 1:
        raise ConfigError(f"--lines: {lines} is too few", hint="say how many lines, at least 1")
    inventory = read_inventory(hosts)

    from fabfile.ssh.fleet import connect
    from fabfile.swarm import audit_log as audit
    from fabfile.terminal import tables

    with connect(inventory, sudo_password=sudo_password(ctx)) as fleet:
        log = audit.read(fleet, lines)
    if json:
        print(tables.to_json(log.entries))
    elif log.entries:
        print(tables.entries([_entry(entry) for entry in log.entries]))
    else:
        print("audit: no entries yet")
    for manager, count in log.damaged.items():
        lines_are = "line is" if count == 1 else "lines are"
        print(
            f"warning: {manager}: {count} {lines_are} damaged and left out; see "
            f"{audit.path(inventory.project)} there",
            file=sys.stderr,
        )


def _entry(entry: dict[str, Any]) -> tuple[list[str], list[str]]:
    """An entry's words for a line, and what it changed, a line each."""
    from fabfile.terminal.tables import printable

    words = [str(entry.get(key, "")) for key in ("time", "who", "command", "stack", "outcome")]
    what = [f"error: {entry['error']}"] if "error" in entry else []
    what += [str(change) for change in entry.get("changes", ())]
    if "release" in entry:
        what.append(f"release {entry['release']}")
    return [printable(word) for word in words], [printable(line) for line in what]
