"""What runs on a host and what comes of it; files to write there. Data and text, runs nothing."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabfile.base.errors import SwarmkeepError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Command:
    """A shell script for one host, run by `sh -c` as root.

    `stdin` is where secrets go: it is never logged. `changes` says whether it
    changes anything; under --dry such commands are shown and not run.
    """

    script: str
    stdin: bytes = b""
    changes: bool = True


@dataclass(frozen=True)
class Result:
    """What a command did. Output is text; undecodable bytes are replaced."""

    host: str
    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class RemoteFile:
    """A file as it should be on a host."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root"


def succeeded(result: Result, what: str, *, hint: str = "") -> Result:
    """Return the result, or raise SwarmkeepError "<host>: <what> failed: <why>"."""
    if result.exit_code == 0:
        return result
    output = (result.stderr.strip() or result.stdout.strip()).splitlines()
    reason = output[-1] if output else f"exit code {result.exit_code}"
    raise SwarmkeepError(
        f"{result.host}: {what} failed: {reason}", hint=hint, details=tuple(output[-6:-1])
    )


# Reads one base64 line per file from stdin. The temporary file stands in the target's
# folder, so that the rename is atomic, and has its mode and owner before the rename.
_WRITE = """set -eu
umask 077
tmp=
trap 'rm -f "$tmp"' EXIT
put() {
  tmp="$1.swarmkeep-$$"
  mkdir -p "$(dirname "$1")"
  IFS= read -r body
  printf %s "$body" | base64 -d >"$tmp"
  chown "$3" "$tmp"
  chmod "$2" "$tmp"
  if [ ! -L "$1" ] && cmp -s "$tmp" "$1" && [ "$(stat -c '%a %U' "$1")" = "$2 $3" ]; then
    rm -f "$tmp"
    echo "same $1"
  else
    mv -f "$tmp" "$1"
    echo "changed $1"
  fi
}
"""


def write_command(files: Sequence[RemoteFile], *, functions: bool = True) -> Command:
    """Given files, return the one command that puts them all in place.

    Without `functions` it goes on where another such command has ended.
    """
    calls = [f"put {shlex.quote(f.path)} {f.mode:o} {shlex.quote(f.owner)}\n" for f in files]
    body = b"".join(base64.b64encode(f.content) + b"\n" for f in files)
    return Command((_WRITE if functions else "") + "".join(calls), stdin=body)
