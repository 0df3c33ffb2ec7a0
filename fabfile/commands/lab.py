"""inv lab.up, lab.status, lab.down: a whole Swarm with S3 on this machine."""

from __future__ import annotations

import sys
import time
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.base.errors import FAILED
from fabfile.terminal.command import command

NAME = "swarmkeep"
NAME_HELP = f"the lab's name, {NAME} by default; labs of different names live side by side"


@command(help={"name": NAME_HELP})
def up(_ctx: Context, name: str = NAME) -> None:
    """Make or repair the lab: a Swarm with S3 on this machine."""
    from fabfile.base.units import format_duration
    from lab import cluster

    started = time.monotonic()
    lab = cluster.up(name, say=_say)
    _say(f"lab {name} is ready after {format_duration(time.monotonic() - started)}; use it with:")
    _say(f"  . {lab.directory / 'env'}")


@command(help={"name": NAME_HELP, "json": "print one JSON document for programs"})
def status(_ctx: Context, name: str = NAME, json: bool = False) -> None:
    """Show the lab; exit code 1 if it is not healthy."""
    from fabfile.terminal import tables
    from lab import cluster

    found = cluster.status(name)
    _say(tables.to_json(found) if json else _as_text(found))
    if not found["ok"]:
        raise Exit(code=FAILED)


@command(help={"name": NAME_HELP, "images": "remove the lab's images too"})
def down(_ctx: Context, name: str = NAME, images: bool = False) -> None:
    """Remove every trace of the lab."""
    from lab import cluster

    if cluster.down(name, say=_say, with_images=images):
        _say(f"lab {name} is gone; the Docker engine keeps running")
    else:
        _say(f"lab {name}: there is none, nothing to do")


def _as_text(found: dict[str, Any]) -> str:
    from fabfile.terminal import tables
    from lab import model

    parts = []
    if "containers" in found:
        rows = [
            [
                member["name"],
                member["address"],
                "[green]healthy[/]"
                if member["ok"]
                else f"[red]{tables.plain(member['problem'])}[/]",
                _swarm_state(found["swarm"], member["name"]),
            ]
            for member in found["containers"]
        ]
        parts.append(tables.table(["member", "address", "health", "swarm"], rows))
        parts.append(f"S3  {found['s3']['url']}  bucket {found['s3']['bucket']}")
        parts.append(f"use it with: . {found['directory']}/env")
    verdict = "healthy" if found["ok"] else f"NOT healthy: {found['problem']}"
    parts.append(f"lab {found['name']}: {verdict}")
    if not found["ok"]:
        parts.append(f"  next: {model.up(found['name'])} repairs it")
    return "\n".join(parts)


def _swarm_state(nodes: list[dict[str, str]], name: str) -> str:
    for node in nodes:
        if node["hostname"] == name:
            words = (node["status"], node["availability"], node["managerstatus"])
            return ", ".join(word for word in words if word)
    return ""


def _say(line: str) -> None:
    print(line, flush=True, file=sys.stdout)
