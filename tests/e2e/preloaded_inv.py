"""`inv` in a fork of a process that has imported everything: importing takes longer than most
commands do. What a command prints, its exit code and its environment are those of a fresh one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def serves(environment: dict[str, str]) -> bool:
    """Whether a fork sees this environment: Python reads some of it only when it starts."""

    def fixed(variables: Mapping[str, str]) -> set[tuple[str, str]]:
        return {one for one in variables.items() if one[0].startswith(("PYTHON", "LANG", "LC_"))}

    return fixed(environment) == fixed(os.environ) - {("PYTHONDONTWRITEBYTECODE", "1")}


class PreloadedInv:
    """The process whose forks run commands; it ends when this one does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.preloaded_inv", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def run(
        self, args: Sequence[str], environment: dict[str, str], stdin: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as subprocess.run does, in a session of its own.

        Raises subprocess.TimeoutExpired after `timeout` seconds, when the command has been ended.
        """
        ours, theirs = socket.socketpair()
        with ExitStack() as opened:
            opened.enter_context(ours)
            files = [opened.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin.encode())
            files[0].seek(0)
            request = json.dumps({"args": args, "environment": environment}).encode()
            with theirs, self._lock:
                fds = [theirs.fileno(), *(one.fileno() for one in files)]
                # The socket keeps no bounds between messages, so the length goes first.
                socket.send_fds(self._socket, [len(request).to_bytes(4, "big")], fds)
                self._socket.sendall(request)
            ours.settimeout(timeout)
            session = int.from_bytes(_exactly(ours, 4), "big")
            try:
                code = int.from_bytes(_exactly(ours, 4), "big", signed=True)
            except TimeoutError:
                os.killpg(session, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["inv", *args], timeout) from None
            texts = []
            for one in files[1:]:
                one.seek(0)
                texts.append(one.read().decode())
            return subprocess.CompletedProcess(["inv", *args], code, *texts)


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = source.recv(size - len(found))
        if not part:
            raise EOFError("the process that runs commands has ended")
        found += part
    return found


def _serve(source: socket.socket) -> list[str] | None:
    """Fork for each request until the tests end; in a fork, return the command's arguments."""
    # Nobody waits for the forks; each of them waits for its command.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        head, fds, _, _ = socket.recv_fds(source, 4, 4)
        if not head:
            return None
        size = int.from_bytes(head + _exactly(source, 4 - len(head)), "big")
        request = json.loads(_exactly(source, size))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            source.close()
            return _fork(request, fds)
        for fd in fds:
            os.close(fd)


def _fork(request: dict[str, Any], fds: list[int]) -> list[str]:
    """Lead the command's session and tell how it ended; return in the command itself only."""
    os.setsid()
    answer = socket.socket(fileno=fds[0])
    answer.sendall(os.getpid().to_bytes(4, "big"))
    command = os.fork()
    if command:
        _, status = os.waitpid(command, 0)
        answer.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        os._exit(0)
    answer.close()
    for target, fd in enumerate(fds[1:]):
        os.dup2(fd, target)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["environment"])
    return list(request["args"])


_USED_LATER = (
    "boto3.s3.inject", "boto3.s3.transfer", "botocore.endpoint_provider", "botocore.httpsession",
    "botocore.retries.special", "botocore.retries.standard", "botocore.session", "bcrypt",
    "cryptography.hazmat.primitives.asymmetric.padding", "cryptography.hazmat.primitives.ciphers",
    "cryptography.hazmat.primitives.kdf.pbkdf2", "cryptography.x509", "dateutil.parser",
    "encodings.idna", "fabric.connection", "multiprocessing.managers", "rich.console",
    "rich.progress", "rich.table", "sysconfig", "zoneinfo",
)  # fmt: skip
"""What the commands import once they need it, and what those import in turn."""


def _preload() -> None:
    import fabfile

    for module in pkgutil.walk_packages(fabfile.__path__, "fabfile."):
        importlib.import_module(module.name)
    for name in _USED_LATER:
        importlib.import_module(name)
    # A fork that collects garbage would copy every page of what is imported.
    gc.freeze()


def main() -> None:
    """Serve on the socket whose file descriptor is the argument."""
    from invoke.main import program

    _preload()
    args = _serve(socket.socket(fileno=int(sys.argv[1])))
    if args is not None:
        program.run(["inv", *args])


if __name__ == "__main__":
    main()
