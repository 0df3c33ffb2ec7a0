"""known_hosts as OpenSSH reads it."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from fabfile.base.errors import UnreachableError
from fabfile.ssh import known_hosts
from fabfile.ssh.known_hosts import is_meant, parse

NAME = "db1.example.com"


def public(key) -> str:
    """A key as known_hosts has it: kind and base64."""
    encoded = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return encoded.decode()


ED = public(ed25519.Ed25519PrivateKey.generate())
OTHER = public(ed25519.Ed25519PrivateKey.generate())
EC = public(ec.generate_private_key(ec.SECP256R1()))
RSA = public(rsa.generate_private_key(65537, 2048))


def blob(text: str) -> bytes:
    return base64.b64decode(text.split()[1])


def keys(*lines: str, name: str = NAME):
    return parse(lines, name)


@pytest.mark.parametrize("key", [ED, EC, RSA], ids=["ed25519", "ecdsa", "rsa"])
def test_whole_keys_count_whatever_stands_around_them(key):
    found = keys("# comment", "", "   ", f"{NAME} {key} a comment with words\r\n", "nonsense")
    assert found.keys == {key.split()[0]: (blob(key),)}


@pytest.mark.parametrize("key", [ED, EC, RSA], ids=["ed25519", "ecdsa", "rsa"])
def test_a_damaged_key_says_nothing_even_beside_a_good_one(key):
    """Seen: one changed character ended every command with a ValueError."""
    kind, text = key.split()
    # The length of the last field, or of the first, is another one.
    damaged = [f"A{'B' * 3}{text[4:]}", text[:-8], text[:20], f"{text}AAAA", text[1:], "!!!"]
    lines = [f"{NAME} {kind} {one}" for one in damaged]
    assert keys(*lines).keys == {}
    assert keys(*lines, f"{NAME} {key}").keys == {kind: (blob(key),)}


def test_an_ed25519_key_of_31_bytes_is_none():
    raw = b"".join(struct.pack(">I", len(f)) + f for f in (b"ssh-ed25519", b"x" * 31))
    assert keys(f"{NAME} ssh-ed25519 {base64.b64encode(raw).decode()}").keys == {}


@pytest.mark.parametrize(
    "kind",
    [
        "sk-ssh-ed25519@openssh.com",
        "ssh-dss",
        "ssh-future",
        "ssh-ed25519-cert-v01@openssh.com",
    ],
)
def test_kinds_that_are_not_known_say_nothing(kind):
    raw = b"".join(struct.pack(">I", len(f)) + f for f in (kind.encode(), b"x" * 32))
    assert keys(f"{NAME} {kind} {base64.b64encode(raw).decode()}").keys == {}


def test_several_keys_of_a_kind_all_count():
    assert keys(f"{NAME} {ED}", f"{NAME} {OTHER}").keys == {"ssh-ed25519": (blob(ED), blob(OTHER))}


def test_markers():
    found = keys(
        f"@revoked {NAME} {ED}", f"@cert-authority *.example.com {EC}", f"@future {NAME} {RSA}"
    )
    assert found.keys == {}
    assert found.revoked == {blob(ED)}
    assert found.has_authority
    assert not keys(f"@cert-authority *.other.com {EC}").has_authority


@pytest.mark.parametrize(
    ("patterns", "name", "meant"),
    [
        ("db1", "db1", True),
        ("DB1", "db1", True),
        ("a,db1,b", "db1", True),
        ("db?", "db1", True),
        ("*.example.com", "x.example.com", True),
        ("*.example.com,!x.example.com", "x.example.com", False),
        ("!x.example.com,*.example.com", "x.example.com", False),
        ("!db1", "db2", False),
        ("[db1]:2222", "[db1]:2222", True),
        ("[db1]:*", "[db1]:2222", True),
        ("[db1]:2222", "db1", False),
        ("db1", "[db1]:2222", False),
        ("[ab]", "a", False),
        ("|1|not base64|at all", "db1", False),
        ("|1|", "db1", False),
    ],
)
def test_which_names_a_line_means(patterns, name, meant):
    assert is_meant(patterns, name) is meant


@given(st.binary(max_size=200), st.text(max_size=80))
def test_nothing_a_line_may_hold_ends_it(raw, text):
    parse([f"{NAME} ssh-ed25519 {base64.b64encode(raw).decode()}", f"{NAME} {text}", text], NAME)


@given(st.data())
def test_a_key_with_any_byte_changed_is_another_key_or_none(data):
    kind = ED.split()[0]
    raw = bytearray(blob(ED))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    found = keys(f"{NAME} {kind} {base64.b64encode(raw).decode()}").keys
    assert blob(ED) not in found.get(kind, ())


def test_files_that_are_there_missing_and_unreadable(tmp_path: Path):
    there = tmp_path / "known_hosts"
    there.write_bytes(f"\xff\xfe\n{NAME} {ED}\n".encode("latin-1"))
    assert known_hosts.read([tmp_path / "missing", there], NAME).keys
    with pytest.raises(UnreachableError) as caught:
        known_hosts.read([tmp_path], NAME)
    assert str(tmp_path) in caught.value.message
    assert "known_hosts cannot be read: is a directory" in caught.value.message


@pytest.mark.parametrize("password", [None, "a passphrase"])
def test_the_public_half_of_a_private_key_is_in_clear(tmp_path, password):
    key = paramiko.ECDSAKey.generate()
    path = tmp_path / "id"
    private = key.signing_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.BestAvailableEncryption(password.encode())
        if password
        else serialization.NoEncryption(),
    )
    path.write_bytes(private)
    assert known_hosts.public_blob(path.read_bytes()) == key.asbytes()


@given(st.binary(max_size=100))
def test_what_is_no_private_key_has_no_public_half(raw):
    text = base64.b64encode(b"openssh-key-v1\0" + raw)
    wrapped = b"-----BEGIN OPENSSH PRIVATE KEY-----\n%s\n-----END OPENSSH PRIVATE KEY-----"
    known_hosts.public_blob(wrapped % text)
    assert known_hosts.public_blob(raw) is None
