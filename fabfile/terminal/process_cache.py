"""What one `inv` process keeps from one command to the next.

`inv deploy backup.install` is two commands: the second one finds the connections open, the
files read and the vault's password known. Files are compared by content, so a command that
changes one is seen by the next.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.ssh.fleet import Fleet

T = TypeVar("T")

_read: dict[tuple[object, bytes], object] = {}
_fleets: list[tuple[tuple[object, ...], Fleet]] = []


def read(path: Path, key: object, load: Callable[[], T]) -> T:
    """What `load` returns, from the last time if `key` and the file's content are the same."""
    try:
        mark = (key, path.read_bytes())
    except OSError:
        # `load` meets the same, and says it in our words.
        return load()
    if mark not in _read:
        _read[mark] = load()
    return _read[mark]  # type: ignore[return-value]


@contextmanager
def fleet(
    inventory: Inventory, *, sudo_password: str | None, dry: bool, echo: Callable[[str], None]
) -> Iterator[Fleet]:
    """The inventory's hosts. Their connections stay open for the next command of this process;
    if the block fails they are closed at once. `round_trips` begins at 0.
    """
    key = (inventory, sudo_password, dry)
    known = next((one for other, one in _fleets if other == key), None)
    if known is None:
        from fabfile.ssh.fleet import Fleet

        known = Fleet(inventory, sudo_password=sudo_password, dry=dry, echo=echo)
        if not _fleets:
            atexit.register(close)
        _fleets.append((key, known))
    known.round_trips = 0
    try:
        yield known
    except BaseException:
        known.close()
        raise


def close() -> None:
    """Close every connection that was kept."""
    while _fleets:
        _fleets.pop()[1].close()
