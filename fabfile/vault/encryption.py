"""The Ansible Vault format, read and written: text in, text out, no files.

The layout, from Ansible's documentation ("Ansible Vault payload format") and
proved against ansible-core in tests/unit/test_vault.py:

    $ANSIBLE_VAULT;1.1;AES256            or  $ANSIBLE_VAULT;1.2;AES256;<label>
    hex(hex(salt) LF hex(hmac) LF hex(ciphertext))  in lines of 80 columns

PBKDF2-HMAC-SHA256 (10,000 rounds, 32 bytes of salt) makes 80 bytes of the password: the
AES-256-CTR key, the HMAC-SHA256 key and the counter's start. The HMAC covers the ciphertext,
which is padded with PKCS7. The label is not protected by anything; it is only a name.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass

from fabfile.base.errors import ConfigError

MAGIC = "$ANSIBLE_VAULT"
_ROUNDS = 10_000
_SALT_BYTES = 32
_BLOCK = 16
_COLUMNS = 80


@dataclass(frozen=True)
class _Envelope:
    salt: bytes
    hmac: bytes
    ciphertext: bytes


def is_vault(text: str) -> bool:
    """Whether the text looks like an Ansible Vault (its first line says so)."""
    return text.lstrip("\ufeff \t\r\n").startswith(MAGIC)


def label_of(text: str, *, name: str = "the vault") -> str | None:
    """The label (vault id) in the header, None for a header without one.

    Raises ConfigError, naming `name`, for anything but a supported vault.
    """
    return _split(text, name)[0]


def decrypt(text: str, password: str, *, name: str = "the vault") -> bytes:
    """Given a vault's text and its password, return the clear bytes.

    Raises ConfigError, naming `name`: not a vault, an unsupported version,
    damaged, or a wrong password.
    """
    envelope = _open_envelope(_split(text, name)[1], name)
    cipher_key, hmac_key, counter = _keys(password, envelope.salt)
    expected = hmac.digest(hmac_key, envelope.ciphertext, "sha256")
    if not hmac.compare_digest(expected, envelope.hmac):
        raise ConfigError(
            f"{name}: cannot be decrypted: the password is wrong, or the content was changed "
            "or cut off (the format cannot tell which)",
            hint="check the vault password, then compare the file with the one in git",
        )
    clear = _unpad(_aes_ctr(cipher_key, counter, envelope.ciphertext))
    if clear is None:
        raise _damaged(name, "its padding is wrong")
    return clear


def encrypt(plaintext: bytes, password: str, label: str | None = None) -> str:
    """Given clear bytes and a password, return a vault's text, as `ansible-vault` writes it.

    The header is 1.1 without a label and 1.2 with one. ConfigError for a label
    that no header can hold, and for an empty password.
    """
    header = f"{MAGIC};1.1;AES256"
    if label is not None:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", label):
            raise ConfigError(f"vault label {label!r}: want printable ASCII characters")
        header = f"{MAGIC};1.2;AES256;{label}"
    salt = os.urandom(_SALT_BYTES)
    cipher_key, hmac_key, counter = _keys(password, salt)
    missing = _BLOCK - len(plaintext) % _BLOCK
    ciphertext = _aes_ctr(cipher_key, counter, plaintext + bytes([missing]) * missing)
    mac = hmac.digest(hmac_key, ciphertext, "sha256")
    body = b"\n".join(part.hex().encode() for part in (salt, mac, ciphertext)).hex()
    lines = [body[start : start + _COLUMNS] for start in range(0, len(body), _COLUMNS)]
    return "\n".join([header, *lines, ""])


def _split(text: str, name: str) -> tuple[str | None, str]:
    """Label and hex body of a vault's text."""
    if not is_vault(text):
        raise ConfigError(
            f"{name}: is not an Ansible Vault: it does not start with {MAGIC}",
            hint="encrypt it with: ansible-vault encrypt FILE",
        )
    header, *body = text.strip("\ufeff \t\r\n").splitlines()
    _, version, cipher, label = (*header.strip().split(";", 3), "", "", "")[:4]
    if version not in ("1.1", "1.2") or cipher != "AES256":
        raise ConfigError(
            f"{name}: has a header this version cannot read: {header[:80]!r}",
            hint="only versions 1.1 and 1.2 with AES256 are supported; "
            "'ansible-vault rekey' writes one of them",
        )
    return label.strip() or None, "".join("".join(body).split())


def _open_envelope(body: str, name: str) -> _Envelope:
    try:
        parts = binascii.unhexlify(body.encode()).split(b"\n")
        salt, mac, ciphertext = (binascii.unhexlify(part) for part in parts)
    except ValueError:  # odd or foreign characters, or not three parts
        raise _damaged(name, "its body is not complete") from None
    if not salt or len(mac) != hashlib.sha256().digest_size:
        raise _damaged(name, "its salt or checksum is not complete")
    if not ciphertext or len(ciphertext) % _BLOCK:
        raise _damaged(name, "its ciphertext is not complete")
    return _Envelope(salt, mac, ciphertext)


def _damaged(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"{name}: is damaged: {why}",
        hint="was it cut off or edited by hand? Take the last good version from git",
    )


def _keys(password: str, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """The cipher key, the HMAC key and the counter's start."""
    if not password:
        raise ConfigError("the vault password is empty")
    try:
        # A password file need not be UTF-8; such bytes travel as surrogates (PEP 383).
        secret = password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError("the vault password holds a character that is no text") from None
    derived = hashlib.pbkdf2_hmac("sha256", secret, salt, _ROUNDS, dklen=32 + 32 + _BLOCK)
    return derived[:32], derived[32:64], derived[64:]


def _aes_ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    """AES in counter mode: the same operation encrypts and decrypts."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    worker = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return worker.update(data) + worker.finalize()


def _unpad(padded: bytes) -> bytes | None:
    """The data without its PKCS7 padding, None if that is not one."""
    count = padded[-1]
    if not 1 <= count <= _BLOCK or padded[-count:] != bytes([count]) * count:
        return None
    return padded[:-count]
