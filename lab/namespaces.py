"""Running a command in a container without asking the engine, which takes twenty times as long."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Namespaces:
    """Those of a running container: its id, its first process, and its variables."""

    container: str
    process: int
    environment: dict[str, str]

    def are_there(self) -> bool:
        """Whether that process still runs, and is the container's."""
        try:
            return self.container in Path(f"/proc/{self.process}/cgroup").read_text()
        except OSError:
            return False

    def run(self, *argv: str, input: bytes | None, timeout: float) -> CompletedProcess[bytes]:
        """Run a command as root in there, as `docker exec` does.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
        """
        # Files, since what it leaves running may keep its output open.
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(input or b"")
            given.seek(0)
            done = subprocess.run(
                [*_nsenter(), "--all", "--target", str(self.process), "--", *argv],
                stdin=subprocess.DEVNULL if input is None else given,
                stdout=out,
                stderr=err,
                timeout=timeout,
                env=self.environment,
                # Who interrupts the tests does not interrupt the nodes.
                start_new_session=True,
                check=False,
            )
            out.seek(0)
            err.seek(0)
            code = done.returncode if done.returncode >= 0 else 128 - done.returncode
            return CompletedProcess(argv, code, out.read(), err.read())


_known: dict[str, Namespaces] = {}


def of(container: str) -> Namespaces | None:
    """The namespaces of a running container; None where they cannot be entered: by somebody who is
    not root, or if the engine is not on this machine.
    """
    found = _known.get(container)
    if found is None or not found.are_there():
        found = _look(container)
        if found is None:
            _known.pop(container, None)
            return None
        _known[container] = found
    return found


def _look(container: str) -> Namespaces | None:
    if os.geteuid() != 0 or not _nsenter():
        return None
    done = subprocess.run(
        ["docker", "container", "inspect", container], capture_output=True, check=False
    )
    if done.returncode:
        return None
    state = json.loads(done.stdout)[0]
    config = state["Config"]
    variables = dict(one.split("=", 1) for one in config["Env"] or () if "=" in one)
    environment = {"PATH": PATH, "HOSTNAME": config["Hostname"], "HOME": "/root"} | variables
    found = Namespaces(state["Id"], state["State"]["Pid"], environment)
    if not found.process or not found.are_there():
        return None
    tried = found.run("true", input=None, timeout=30)
    return found if tried.returncode == 0 else None


@cache
def _nsenter() -> list[str]:
    path = shutil.which("nsenter")
    return [path] if path else []
