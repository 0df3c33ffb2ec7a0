"""What one process keeps between two commands: connections, files that were read."""

from __future__ import annotations

import time

import pytest

from fabfile.base.errors import SwarmkeepError
from fabfile.ssh.fleet import Host
from fabfile.ssh.remote_command import Command
from fabfile.terminal import process_cache
from tests.ssh.conftest import with_ssh

LOOK = Command("echo hello", changes=False)


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    process_cache.close()


def one_command(inventory, dry: bool = False) -> int:
    """Run something on the first host, as a command does; return its round trips."""
    with process_cache.fleet(inventory, sudo_password=None, dry=dry, echo=print) as fleet:
        assert fleet.host(inventory.hosts[0]).run(LOOK).stdout == "hello\n"
        return fleet.round_trips


def test_second_command_uses_the_connection_of_the_first(server, make_inventory):
    inventory = make_inventory(server)
    assert [one_command(inventory), one_command(inventory)] == [1, 1]
    assert len(server.transports) == 1


def test_other_settings_mean_another_connection(server, make_inventory):
    inventory = make_inventory(server)
    one_command(inventory)
    one_command(inventory, dry=True)
    one_command(with_ssh(inventory, connect_timeout=4))
    assert len(server.transports) == 3


def kept_host(inventory) -> Host:
    with process_cache.fleet(inventory, sudo_password=None, dry=False, echo=print) as fleet:
        return fleet.host(inventory.hosts[0])


def test_connection_that_was_cut_in_between_is_opened_again(server, make_inventory):
    inventory = make_inventory(server)
    host = kept_host(inventory)
    server.drop_connections()
    end = time.monotonic() + 20
    while host.is_connected and time.monotonic() < end:
        time.sleep(0.02)
    one_command(inventory)
    assert len(server.transports) == 2


def test_command_that_fails_leaves_no_connection_open(server, make_inventory):
    inventory = make_inventory(server)
    host = kept_host(inventory)

    def fail() -> None:
        with process_cache.fleet(inventory, sudo_password=None, dry=False, echo=print):
            assert host.is_connected
            raise SwarmkeepError("no")

    with pytest.raises(SwarmkeepError):
        fail()
    assert not host.is_connected
    one_command(inventory)
    assert len(server.transports) == 2


def test_file_is_read_again_when_its_content_has_changed(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    calls = []

    def load() -> str:
        calls.append(path.read_text())
        return calls[-1]

    assert [process_cache.read(path, path, load) for _ in range(2)] == ["one", "one"]
    path.write_text("two")
    assert [process_cache.read(path, path, load) for _ in range(2)] == ["two", "two"]
    assert calls == ["one", "two"]


def test_file_that_cannot_be_read_is_the_loaders_to_report(tmp_path):
    def load() -> str:
        raise SwarmkeepError("no such file")

    with pytest.raises(SwarmkeepError, match="no such file"):
        process_cache.read(tmp_path / "absent", "key", load)
