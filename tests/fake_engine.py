#!/usr/bin/env python3
"""A Docker engine's API from files: what `docker system dial-stdio` would join to.

Each question `GET /NAME` is answered with the file NAME of the folder that is the argument. Of
"services" and "tasks" there may be another one for a filter by label, such as "services.label".
What has no file gets status 500, as from a manager without its Swarm.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

EMPTY = dict.fromkeys(("nodes", "networks", "secrets", "services", "tasks"), "[]")


def folder_of_answers(folder: Path, answers: Mapping[str, str]) -> str:
    """Put answers into a folder; the shell line that then stands for `docker system dial-stdio`."""
    folder.mkdir(exist_ok=True)
    for name, text in answers.items():
        (folder / name.replace("/", "_")).write_text(text)
    return f"exec {sys.executable} {shlex.quote(__file__)} {shlex.quote(str(folder))}"


def main(folder: Path) -> None:
    """Answer each question on standard input, in order, until one ends the connection."""
    for line in sys.stdin.buffer:
        words = line.decode().split()
        if words[:1] != ["GET"]:
            continue
        resource, _, query = words[1].partition("?")
        path = folder / resource.strip("/").replace("/", "_")
        labelled = path.with_name(f"{path.name}.label")
        if "label" in query and labelled.exists():
            path = labelled
        status, body = (200, path.read_bytes()) if path.exists() else (500, b'{"message":"gone"}')
        if path.name.startswith("networks_") and status == 500:
            status = 404
        # In chunks, as the engine does with what is long.
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        if len(body) > 2048:
            head += "Transfer-Encoding: chunked\r\n\r\n"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            head += f"Content-Length: {len(body)}\r\n\r\n"
        sys.stdout.buffer.write(head.encode() + body)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
