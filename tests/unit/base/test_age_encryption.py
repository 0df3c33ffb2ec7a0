"""age: recipients, headers, streams; what age itself writes is read, and the other way round."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fabfile.base import age_encryption as age
from fabfile.base.errors import UnreachableError

PRIVATE, PUBLIC = age.generate()
OTHER_PRIVATE, OTHER = age.generate()
DATA = bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """An SSH key as people have it: its private text, its public line."""
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ann@example.com", "-f", path],
        check=True,
    )
    return path.read_text(), path.with_suffix(".pub").read_text()


def blocks(data: bytes, size: int = 1000):
    return (data[i : i + size] for i in range(0, len(data), size))


def test_what_is_encrypted_for_several_each_can_read(ssh):
    public = age.recipient(ssh[1])
    data = age.encrypt(DATA, [PUBLIC, public])
    assert age.decrypt(data, PRIVATE) == age.decrypt(data, ssh[0]) == DATA
    assert age.encrypted_for(data[:4096], [PUBLIC, public]) == ""


def test_several_private_keys_read_what_is_for_one_of_them():
    both = f"{OTHER_PRIVATE}\n{PRIVATE}"
    assert age.decrypt(age.encrypt(b"x", [PUBLIC]), both) == b"x"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537])
def test_streams_of_every_length(size):
    data = DATA[:size]
    stored = b"".join(age.encrypted(blocks(data), [PUBLIC]))
    assert b"".join(age.decrypted(blocks(stored, 777), PRIVATE)) == data


def test_the_program_age_reads_ours_and_we_read_its(tmp_path):
    if not shutil.which("age"):
        pytest.skip("the program age is not installed here; the shell tests install it")
    key = tmp_path / "key"
    key.write_text(PRIVATE)
    said = subprocess.run(
        ["age", "-d", "-i", key], input=age.encrypt(DATA, [PUBLIC]), capture_output=True, check=True
    )
    assert said.stdout == DATA
    made = subprocess.run(["age", "-r", PUBLIC], input=DATA, capture_output=True, check=True).stdout
    assert age.decrypt(made, PRIVATE) == DATA
    assert age.encrypted_for(made[:1000], [PUBLIC]) == ""


def test_another_identity():
    with pytest.raises(age.WrongIdentityError):
        age.decrypt(age.encrypt(DATA, [PUBLIC]), OTHER_PRIVATE)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:70000],
        lambda data: data + b"x",
        lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
        lambda _data: b"PGDMP in clear",
        lambda _data: b"",
    ],
)
def test_damaged_cut_off_not_encrypted(spoil):
    with pytest.raises(age.DamagedError):
        age.decrypt(spoil(age.encrypt(DATA, [PUBLIC])), PRIVATE)


def test_what_breaks_while_it_is_read_is_not_the_files_fault():
    def source():
        yield age.encrypt(DATA, [PUBLIC])[:1000]
        raise UnreachableError("the bucket is gone")

    with pytest.raises(UnreachableError, match="the bucket is gone"):
        list(age.decrypted(source(), PRIVATE))


def test_whoever_stops_reading_leaves_no_thread_behind():
    import threading

    before = threading.active_count()
    stream = age.decrypted(blocks(age.encrypt(DATA * 20, [PUBLIC])), PRIVATE)
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PRIVATE, "is a private key"),
        (PUBLIC[:-1], "is damaged"),
        (PUBLIC[:-1] + ("q" if PUBLIC[-1] != "q" else "p"), "is damaged"),
        ("ssh-rsa AAAAB3NzaC1yc2E= x", "another kind"),
        ("ssh-ed25519 " + "A" * 68, "is damaged"),
        ("me@example.com", "is no key"),
    ],
    ids=["private", "short", "typo", "rsa", "ssh", "address"],
)
def test_recipients_that_are_none(text, problem):
    with pytest.raises(ValueError, match=problem):
        age.recipient(text)


def test_a_header_with_other_keys_than_wanted(ssh):
    public = age.recipient(ssh[1])
    header = age.encrypt(b"", [PUBLIC])
    assert "for 1 keys, not for the 2" in age.encrypted_for(header, [PUBLIC, OTHER])
    assert "for 1 keys, not for the 1" in age.encrypted_for(header, [public])
    assert age.encrypted_for(b"\x1f\x8b a gzip file", [PUBLIC]) == "it is not encrypted"
    assert age.encrypted_for(header[:60], [PUBLIC]) == "its header has no end"
