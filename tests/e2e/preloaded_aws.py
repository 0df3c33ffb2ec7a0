#!/usr/bin/python3 -IS
"""The AWS CLI in a fork of a process that has imported it: importing takes most of its time.

Put on a node as /usr/local/bin/aws, it hands its words, variables and files to that process, and
ends as the CLI's fork ends. The first call starts the process, and is the CLI itself.
"""

from __future__ import annotations

import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

CLI = "/usr/bin/aws"
ADDRESS = "/run/preloaded-aws"
_MESSAGE = 1 << 20
"""Bytes of a request, at most: more than a system takes as words and variables of a program."""


def main() -> None:
    """Be the AWS CLI with this process's words."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE)
    try:
        connection.connect(ADDRESS)
    except OSError:
        if os.path.exists(CLI):
            _start()
        os.execv(CLI, [CLI, *sys.argv[1:]])
    variables = (f"{name}={value}" for name, value in os.environ.items())
    parts = (sys.argv[1:], variables, [os.getcwd(), str(_umask())])
    request = b"\0\0".join(b"\0".join(map(os.fsencode, part)) for part in parts)
    socket.send_fds(connection, [request], [0, 1, 2])
    answer = connection.recv(4)
    os._exit(int.from_bytes(answer, "big") if answer else 255)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _start() -> None:
    """Start the process whose forks are the CLI, with nothing of the caller's."""
    if os.fork():
        return
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for file in range(3):
        os.dup2(nothing, file)
    os.closerange(3, 1024)
    python = "/usr/bin/python3"
    variables = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    os.execve(python, [python, os.path.abspath(__file__), "--serve"], variables)


def _serve() -> None:
    import fcntl
    import gc
    import importlib
    import signal

    lock = os.open(f"{ADDRESS}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another one is just starting
    for module in (
        "awscli.handlers",
        "s3transfer.crt",
        "botocore.stub",
        "multiprocessing.managers",
    ):
        # These are imported by a command's first use of S3, the others by the last one here.
        importlib.import_module(module)
    cli = importlib.import_module("awscli.clidriver")
    _remember(importlib.import_module("botocore.loaders"))
    session = cli.create_clidriver().session
    session.create_client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1")
    # A fork that collects garbage would copy every page of what is imported.
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # What a process has left that was killed.
    if os.path.exists(ADDRESS):
        os.unlink(ADDRESS)
    os.umask(0o077)
    listener.bind(ADDRESS)
    listener.listen(128)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(lock)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _fork(cli, connection)
        connection.close()


def _remember(loaders: ModuleType) -> None:
    """Keep what the CLI reads at each start, and no command changes: which services there are, and
    what their requests look like. It is half of what it does.
    """
    import functools

    read = functools.cache(loaders.JSONFileLoader().load_file)
    loaders.JSONFileLoader.load_file = lambda _, path: read(path)
    look, found = loaders.Loader.list_available_services, {}

    def services(loader: Any, type_name: str) -> list[str]:
        key = (*loader.search_paths, type_name)
        if key not in found:
            found[key] = look(loader, type_name)
        return list(found[key])

    loaders.Loader.list_available_services = services


def _fork(cli: ModuleType, connection: socket.socket) -> None:
    """Be the CLI that a client asks for; end when it ends."""
    import threading

    request, files, _, _ = socket.recv_fds(connection, _MESSAGE, 3)
    words, variables, rest = (part.split(b"\0") for part in request.split(b"\0\0"))
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    # The CLI sets this one when it is imported.
    kept = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}
    os.environ.clear()
    os.environ.update(kept, **dict(os.fsdecode(one).split("=", 1) for one in variables))
    os.chdir(rest[0])
    os.umask(int(rest[1]))

    def end_with_the_client() -> None:
        connection.recv(1)
        os.kill(os.getpid(), 9)

    threading.Thread(target=end_with_the_client, daemon=True).start()
    code = _run(cli, [os.fsdecode(one) for one in words if one])
    sys.stdout.flush()
    connection.send(code.to_bytes(4, "big"))
    os._exit(0)


def _run(cli: ModuleType, words: list[str]) -> int:
    sys.argv = [CLI, *words]
    return int(cli.main())


if __name__ == "__main__":
    _serve() if sys.argv[1:] == ["--serve"] else main()
