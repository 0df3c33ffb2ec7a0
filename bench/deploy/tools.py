"""The four tools: how each is started on a folder, and how one sees that it changed nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabfile.base.errors import SwarmkeepError
from lab.model import Lab

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = ROOT / ".bench-venv/bin"
LONGEST_RUN = 300.0  # seconds
LAST_LINES = 15


@dataclass(frozen=True)
class Tool:
    """A tool. `start` gives its command line and its own environment for a folder."""

    name: str
    start: Callable[[Path, Lab], tuple[list[str], dict[str, str]]]
    unchanged: str
    """Regular expression that its output matches if it had nothing to do."""
    waits: bool = False
    """Whether it waits until the stacks really run."""
    stop: Callable[[Path], None] = lambda _folder: None
    """Ends what it leaves running between two runs."""

    def run(self, folder: Path, lab: Lab, *, unchanged: bool) -> tuple[float, str]:
        """Run it to its end; return seconds and output. Raises SwarmkeepError if it fails.

        With `unchanged`, its failing is also that it does something.
        """
        argv, environment = self.start(folder, lab)
        start = time.perf_counter()
        try:
            done = subprocess.run(
                argv,
                cwd=ROOT,
                env=_clean_environment() | environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LONGEST_RUN,
                check=False,
            )
            seconds = time.perf_counter() - start
        except subprocess.TimeoutExpired:
            raise SwarmkeepError(f"{self.name}: no end after {LONGEST_RUN:.0f} s") from None
        finally:
            self.stop(folder)
        output = done.stdout + done.stderr
        if done.returncode or (unchanged and not re.search(self.unchanged, output, re.DOTALL)):
            why = f"exit code {done.returncode}" if done.returncode else "it changed something"
            raise SwarmkeepError(
                f"{self.name}: {why}", details=tuple(output.splitlines()[-LAST_LINES:])
            )
        return seconds, output


def _clean_environment() -> dict[str, str]:
    """Ours without anything that steers one of the tools, AWS or ssh's agent.

    `make` keeps Python from storing bytecode; a person's shell does not.
    """
    steering = ("AWS_", "SWARMKEEP_", "ANSIBLE_", "PYINFRA_", "INVOKE_", "SSH_AUTH_", "PYTHON")
    return {key: value for key, value in os.environ.items() if not key.startswith(steering)}


def _swarmkeep(folder: Path, lab: Lab) -> tuple[list[str], dict[str, str]]:
    inv = Path(sys.executable).with_name("inv")
    settings = lab.settings() | {
        "SWARMKEEP_HOSTS": str(folder / "hosts.yaml"),
        "SWARMKEEP_DEBUG": "1",  # tells the round trips
    }
    return [str(inv), "deploy", "backup.install"], settings


def _ansible(folder: Path, lab: Lab) -> tuple[list[str], dict[str, str]]:
    argv = [
        str(PEERS / "ansible-playbook"),
        "--inventory",
        str(folder / "inventory.yml"),
        "--vault-password-file",
        str(lab.directory / "vault-password"),
        str(HERE / "ansible/playbook.yml"),
    ]
    return argv, {
        "ANSIBLE_CONFIG": str(HERE / "ansible/ansible.cfg"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
    }


def _close_masters(folder: Path) -> None:
    """End ssh's shared connections: every timed run begins without any, whichever the tool."""
    for socket in (folder / "cp").glob("*"):
        subprocess.run(
            ["ssh", "-S", str(socket), "-O", "exit", "ignored"], capture_output=True, check=False
        )


def _pyinfra(folder: Path, _lab: Lab) -> tuple[list[str], dict[str, str]]:
    here = HERE / "pyinfra"
    argv = [str(PEERS / "pyinfra"), "-y", str(here / "inventory.py"), str(here / "deploy.py")]
    return argv, {"BENCH_WORK": str(folder)}


def _ssh(folder: Path, _lab: Lab) -> tuple[list[str], dict[str, str]]:
    return ["bash", str(HERE / "ssh/deploy.sh"), str(folder)], {}


SWARMKEEP = Tool(
    "swarmkeep",
    _swarmkeep,
    "dbstack: converged, nothing.*appstack: converged, nothing.*db1: nothing to change",
    waits=True,
)
ANSIBLE = Tool("ansible", _ansible, "db1 .*changed=0 .*manager1 .*changed=0 ", stop=_close_masters)
# Its two `docker stack deploy` always count as done; all other operations are "no change".
PYINFRA = Tool("pyinfra", _pyinfra, r"Grand total\s+11\s+2\s+-\s+9")
# It does not say: that no container was restarted is checked for every tool.
SSH = Tool("plain ssh", _ssh, "")
TOOLS = (SWARMKEEP, ANSIBLE, PYINFRA, SSH)
