"""known_hosts as OpenSSH reads it: what it cannot read is passed over, one line at a time.

The format: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT. Keys are compared as bytes, so nothing here needs
to understand more of them than whether they are whole.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fabfile.base.errors import UnreachableError

_ED25519_BYTES = 32
_CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
"""Bytes of an uncompressed point, by the curve's name in SSH (RFC 5656)."""


@dataclass(frozen=True)
class KnownKeys:
    """What known_hosts says of one host: key blobs by their kind ("ssh-ed25519", ...).

    `revoked` are keys that must never be accepted; `has_authority` tells that a line vouches for
    host certificates, which are not supported here.
    """

    keys: Mapping[str, tuple[bytes, ...]]
    revoked: frozenset[bytes] = frozenset()
    has_authority: bool = False


def read(files: Sequence[Path], name: str) -> KnownKeys:
    """What the files say of a host, by the name OpenSSH knows it under ("[host]:port").

    A file that is not there knows nobody. Raises UnreachableError for one that cannot be read.
    """
    lines: list[str] = []
    for file in files:
        try:
            lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnreachableError(
                f"{file}: known_hosts cannot be read: {(error.strerror or str(error)).lower()}",
                hint="check its permissions, or name another file in ssh.known_hosts",
            ) from None
    return parse(lines, name)


def parse(lines: Iterable[str], name: str) -> KnownKeys:
    """What the lines of known_hosts say of a host. A line that makes no sense says nothing."""
    keys: dict[str, tuple[bytes, ...]] = {}
    revoked: set[bytes] = set()
    authority = False
    for line in lines:
        marker, rest = "", line.strip()
        if rest.startswith("@"):
            marker, _, rest = rest.partition(" ")
        words = rest.split(maxsplit=3)
        if len(words) < 3 or words[0].startswith("#") or not is_meant(words[0], name):
            continue
        kind, blob = words[1], _whole(words[1], words[2])
        if blob is None:
            continue
        if marker == "@revoked":
            revoked.add(blob)
        elif marker == "@cert-authority":
            authority = True
        elif not marker:
            keys[kind] = (*keys.get(kind, ()), blob)
    return KnownKeys(keys, frozenset(revoked), authority)


def is_meant(patterns: str, name: str) -> bool:
    """Whether the first field of a line means this host: names, * and ?, !negated, or hashed."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(pattern, name)
        elif pattern.startswith("!"):
            if _matches(pattern[1:], name):
                return False
        else:
            found = found or _matches(pattern, name)
    return found


def _matches(pattern: str, name: str) -> bool:
    # fnmatch knows [sets], too, which here are the brackets around a host with a port.
    literal = pattern.lower().replace("[", "[[]")
    return fnmatch.fnmatchcase(name.lower(), literal)


def _is_hash_of(pattern: str, name: str) -> bool:
    salt, _, digest = pattern.removeprefix("|1|").partition("|")
    try:
        key, wanted = base64.b64decode(salt), base64.b64decode(digest)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(key, name.lower().encode(), "sha1"), wanted)


def _whole(kind: str, text: str) -> bytes | None:
    """A key's bytes if they are a whole key of a kind that is known here; None if not."""
    try:
        blob = base64.b64decode(text, validate=True)
        fields = _fields(blob)
    except (ValueError, binascii.Error, struct.error):
        return None
    if not fields or fields[0] != kind.encode("utf-8", "replace"):
        return None
    rest = fields[1:]
    if kind == "ssh-ed25519":
        good = len(rest) == 1 and len(rest[0]) == _ED25519_BYTES
    elif kind == "ssh-rsa":
        good = len(rest) == 2 and all(rest)
    elif kind.startswith("ecdsa-sha2-"):
        curve = kind.removeprefix("ecdsa-sha2-")
        good = (
            len(rest) == 2
            and rest[0] == curve.encode()
            and len(rest[1]) == _CURVES.get(curve, 0)
            and rest[1][:1] == b"\x04"
        )
    else:
        # sk- keys are users' keys, DSA is no more, and what comes next is not known yet.
        good = False
    return blob if good else None


def _fields(blob: bytes) -> list[bytes]:
    """The length-prefixed strings that a key consists of (RFC 4251, section 5)."""
    fields, place = [], 0
    while place < len(blob):
        (size,) = struct.unpack_from(">I", blob, place)
        place += 4
        if place + size > len(blob):
            raise ValueError("a field is longer than the key")
        fields.append(blob[place : place + size])
        place += size
    return fields


def public_blob(private: bytes) -> bytes | None:
    """The public half of a private key's text, which OpenSSH's format has in clear even where the
    key is encrypted; None for another format.

    https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key
    """
    begin, end = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
    body = private.partition(begin)[2].partition(end)[0]
    try:
        data = base64.b64decode(b"".join(body.split()))
        magic = b"openssh-key-v1\0"
        if not data.startswith(magic):
            return None
        place = len(magic)
        for _ in range(3):  # cipher, key derivation, its options
            (size,) = struct.unpack_from(">I", data, place)
            place += 4 + size
        place += 4  # how many keys: one
        (size,) = struct.unpack_from(">I", data, place)
    except (ValueError, binascii.Error, struct.error):
        return None
    return data[place + 4 : place + 4 + size] or None
