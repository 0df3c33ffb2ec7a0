"""Which lines of known_hosts count for a host: as OpenSSH writes them, and by its own tools."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from fabfile.ssh.fleet import connect
from fabfile.ssh.remote_command import Command


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


def test_any_key_that_is_known_counts(server, inventory):
    """sshd(8): accepted "if matching information can be found from" any line."""
    name = f"[127.0.0.1]:{server.port}"
    others = "".join(line(server, name, paramiko.ECDSAKey.generate()) for _ in range(3))
    inventory.ssh.known_hosts.write_text(others)
    assert not works(inventory)
    inventory.ssh.known_hosts.write_text(others + line(server, name) + others)
    assert works(inventory)


def refusal(inventory) -> str:
    with connect(inventory) as fleet:
        error = fleet.fan_out(inventory.hosts, lambda host: host.run(Command("true")))[0].error
    assert error is not None
    assert error.hint
    return f"{error.message} {error.hint}"


def test_a_damaged_line_alone_is_an_unknown_host_and_beside_a_good_one_nothing(server, inventory):
    """Seen: "internal error ... ValueError: The key must be exactly 32 bytes long"."""
    name = f"[127.0.0.1]:{server.port}"
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    encoding = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    kind, text = key.public_bytes(*encoding).decode().split()
    # The length of the key itself: 31 instead of 32.
    raw = bytearray(base64.b64decode(text))
    raw[18] = 31
    damaged = f"{name} {kind} {base64.b64encode(raw).decode()}\n"
    inventory.ssh.known_hosts.write_text(damaged)
    assert "unknown host key" in refusal(inventory)
    inventory.ssh.known_hosts.write_text(damaged + line(server, name))
    assert works(inventory)


def test_a_revoked_key_is_refused_as_such(server, inventory):
    name = f"[127.0.0.1]:{server.port}"
    for more in ("", line(server, name)):
        inventory.ssh.known_hosts.write_text(more + "@revoked " + line(server, "*"))
        assert "is marked @revoked in" in refusal(inventory)


def test_a_certificate_authority_alone_is_told_plainly(server, inventory):
    name = f"[127.0.0.1]:{server.port}"
    inventory.ssh.known_hosts.write_text("@cert-authority " + line(server, name))
    said = refusal(inventory)
    assert "host certificates are not supported" in said
    assert "ssh-keyscan -p" in said
    text = inventory.ssh.known_hosts.read_text()
    inventory.ssh.known_hosts.write_text(text + line(server, name))
    assert works(inventory)


def test_a_folder_instead_of_a_file(inventory, tmp_path):
    inventory.ssh.known_hosts.unlink()
    inventory.ssh.known_hosts.mkdir()
    assert "known_hosts cannot be read: is a directory" in refusal(inventory)
