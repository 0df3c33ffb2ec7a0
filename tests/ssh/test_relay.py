"""What one host says becomes what another reads: whole, or not at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import Inventory
from fabfile.ssh.fleet import Fleet, connect
from fabfile.ssh.relay import relay
from tests.ssh.server import SshServer

MEGABYTES = 12
# More than is on the way at any time, and no text.
GIVE = f"head -c {MEGABYTES * 2**20} /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 -nosalt"


@pytest.fixture
def inventory(
    make_server: Callable[..., SshServer], make_inventory: Callable[..., Inventory]
) -> Inventory:
    return make_inventory(make_server(), make_server())


def run(fleet: Fleet, giver: str, taker: str, *, to: int = 1) -> str:
    source, target = (fleet.host(fleet.inventory.hosts[i]) for i in (0, to))
    return relay(source, giver, target, taker, "copying", timeout=30)


@pytest.mark.parametrize("to", [0, 1])
def test_every_byte_comes_over(inventory: Inventory, tmp_path: Path, to: int) -> None:
    with connect(inventory) as fleet:
        said = run(fleet, f"{GIVE} | tee {tmp_path}/sent", "sha256sum", to=to)
    sent = (tmp_path / "sent").read_bytes()
    assert len(sent) == MEGABYTES * 2**20
    assert said.split()[0] == hashlib.sha256(sent).hexdigest()


@pytest.mark.parametrize("to", [0, 1])
def test_what_breaks_off_is_never_taken_for_whole(
    inventory: Inventory, tmp_path: Path, to: int
) -> None:
    giver = "echo part; echo broke off >&2; exit 3"
    with connect(inventory) as fleet, pytest.raises(SwarmkeepError, match="copying failed: broke"):
        run(fleet, giver, f"cat >{tmp_path}/got", to=to)
    assert (tmp_path / "got").read_text() == "part\n"


@pytest.mark.parametrize("to", [0, 1])
def test_a_target_that_ends_early_ends_the_source(
    inventory: Inventory, tmp_path: Path, to: int
) -> None:
    giver = f"echo $$ >{tmp_path}/giver; exec yes"
    with (
        connect(inventory) as fleet,
        pytest.raises(SwarmkeepError, match=f"host{to + 1}: copying failed: no room"),
    ):
        run(fleet, giver, "head -c 100 >/dev/null; echo no room >&2; exit 4", to=to)
    process = Path("/proc", (tmp_path / "giver").read_text().strip())
    end = time.monotonic() + 20
    while process.exists():
        assert time.monotonic() < end, "it still gives"
        time.sleep(0.05)
