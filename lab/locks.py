"""Two `inv lab.up` at once must not step on each other's feet."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder(directory: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lab's folder, made if need be, against everybody else who wants it.

    Whoever held it before may have removed it meanwhile (`inv lab.down`): then the lock is on a
    folder that is no more, and it is made and locked again.
    """
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            _lock(handle, waiting)
            if _same(directory, handle):
                yield
                return
        finally:
            os.close(handle)


@contextmanager
def shared(what: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold something that all labs of this user share: "engine", "images" or "subnets"."""
    path = Path(tempfile.gettempdir()) / f"swarmkeep-lab-{what}-{os.getuid()}.lock"
    # Anybody may write to the temporary folder: a link that was laid there is not followed.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _lock(handle, waiting)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, waiting: Callable[[], None]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(handle, fcntl.LOCK_EX)


def _same(directory: Path, handle: int) -> bool:
    try:
        return directory.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
