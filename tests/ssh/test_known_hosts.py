"""Which lines of known_hosts count for a host: as OpenSSH writes them, and by its own tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

import paramiko
import pytest

from fabfile.transport import Command, connect


@pytest.fixture
def inventory(server, make_inventory):
    return make_inventory(server)


def line(server, names: str, key: paramiko.PKey | None = None) -> str:
    key = key or server.host_key
    return f"{names} {key.get_name()} {key.get_base64()} a comment\n"


def works(inventory) -> bool:
    with connect(inventory) as fleet:
        outcome = fleet.fan_out(inventory.hosts, lambda host: host.run(Command("true")))[0]
    assert outcome.error is None or "host key" in outcome.error.message
    return outcome.value is not None and outcome.value.exit_code == 0


def test_name_among_others_and_lines_that_are_none(server, inventory):
    ours = f"[127.0.0.1]:{server.port}"
    inventory.ssh.known_hosts.write_text(
        "# a comment\n\n"
        f"{ours} ecdsa-sha2-nistp256 !!! not a key !!!\n"
        f"{ours} ssh-future AAAA\n"
        f"{ours}\n"
        + line(server, "[127.0.0.1]:1", paramiko.ECDSAKey.generate())
        + line(server, f"example.com,{ours},192.0.2.7").replace(" ", "\t", 1)
    )
    assert works(inventory)


def test_name_hashed_by_openssh(server, inventory, tmp_path: Path):
    path = inventory.ssh.known_hosts
    path.write_text(
        line(server, "[127.0.0.1]:1", paramiko.ECDSAKey.generate())
        + line(server, f"[127.0.0.1]:{server.port}")
    )
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert str(server.port) not in path.read_text()
    assert works(inventory)


def test_name_hashed_wrongly_is_nobodys(server, inventory):
    inventory.ssh.known_hosts.write_text(line(server, "|1|not base64|at all"))
    assert not works(inventory)


def test_same_address_with_another_port_is_another_host(server, inventory):
    inventory.ssh.known_hosts.write_text(
        line(server, "127.0.0.1") + line(server, f"[127.0.0.1]:{server.port + 1}")
    )
    assert not works(inventory)


def test_first_key_of_a_kind_counts(server, inventory):
    name = f"[127.0.0.1]:{server.port}"
    other = line(server, name, paramiko.ECDSAKey.generate())
    inventory.ssh.known_hosts.write_text(other + line(server, name))
    assert not works(inventory)
    inventory.ssh.known_hosts.write_text(line(server, name) + other)
    assert works(inventory)
