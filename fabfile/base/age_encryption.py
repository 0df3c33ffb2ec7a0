"""age, with which backups are encrypted: recipients, identities, headers, streams.

Everything about the format is from https://age-encryption.org/v1. Only here pyrage is imported.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from queue import Queue
from typing import Any

FIRST_LINE = b"age-encryption.org/v1\n"
"""What every encrypted file begins with."""
END = ".age"
"""What names of encrypted objects end with."""
HEADER = 8192
"""Bytes in which the header of any number of recipients that hosts.yaml may name ends."""
MOST_RECIPIENTS = 20
_SSH = re.compile(r"(ssh-ed25519 [A-Za-z0-9+/]{68})( .*)?")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", re.S)
_WAITING = 16
"""Decrypted blocks that wait for whoever reads them."""


class WrongIdentityError(ValueError):
    """None of the recipients that something is encrypted for is this identity."""


class DamagedError(ValueError):
    """What should be encrypted is no age file, or was changed or cut off."""


def recipient(text: str) -> str:
    """Given a recipient as people have it, "age1..." or the line of an SSH public key, return it
    without the key's comment. Raises ValueError that says what is wrong.
    """
    import pyrage

    text = text.strip()
    if text.startswith("AGE-SECRET-KEY-"):
        raise ValueError("is a private key: a recipient is the public one, age1...")
    match = _SSH.fullmatch(text)
    try:
        if match:
            pyrage.ssh.Recipient.from_str(match[1])
            return match[1]
        if text.startswith("age1"):
            pyrage.x25519.Recipient.from_str(text)
            return text
    except pyrage.RecipientError as error:
        raise ValueError(f"is damaged: {error}") from None
    if text.startswith(("ssh-", "ecdsa-", "sk-")):
        raise ValueError("is an SSH key of another kind: only ssh-ed25519 can be used")
    raise ValueError("is no key: want age1... or an SSH public key, ssh-ed25519 ...")


def key_id(public: str) -> str:
    """By what people and manifests call a recipient's key: 8 hex digits of its SHA-256."""
    return hashlib.sha256(public.encode()).hexdigest()[:8]


def generate() -> tuple[str, str]:
    """A new identity: the private key, AGE-SECRET-KEY-1..., and its recipient."""
    import pyrage

    made = pyrage.x25519.Identity.generate()
    return str(made), str(made.to_public())


def public_of(private: str) -> str:
    """Given the private key AGE-SECRET-KEY-1..., return its recipient. Raises ValueError."""
    import pyrage

    try:
        return str(pyrage.x25519.Identity.from_str(private).to_public())
    except pyrage.IdentityError as error:
        raise ValueError(f"is no age identity: {error}") from None


def encrypted_for(header: bytes, recipients: Sequence[str]) -> str:
    """Given the first bytes of an object and the recipients that it should be for, return what is
    wrong with it; "" for nothing.

    Which X25519 key a line is for is hidden: those are counted. An SSH key shows the first four
    bytes of its SHA-256.
    """
    if not header.startswith(FIRST_LINE):
        return "it is not encrypted"
    head, end, _ = header.partition(b"\n---")
    if not end:
        return "its header has no end"
    found = sorted(
        words[2] if words[1:2] == [b"ssh-ed25519"] and len(words) > 2 else b" ".join(words[1:2])
        for line in head.splitlines()
        # Some programs add a line that stands for nobody, "grease".
        if (words := line.split()) and words[0] == b"->" and not words[1].endswith(b"-grease")
    )
    wanted = sorted(_ssh_tag(one) if one.startswith("ssh-") else b"X25519" for one in recipients)
    if found != wanted:
        return f"it is encrypted for {len(found)} keys, not for the {len(wanted)} recipients"
    return ""


def _ssh_tag(public: str) -> bytes:
    key = base64.b64decode(public.split()[1])
    return base64.b64encode(hashlib.sha256(key).digest()[:4]).rstrip(b"=")


def decrypt(data: bytes, private: str) -> bytes:
    """Decrypt something small. Raises WrongIdentityError or DamagedError."""
    return b"".join(decrypted([data], private))


def encrypt(data: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt something small."""
    import pyrage

    return bytes(pyrage.encrypt(data, _recipients(recipients)))


def decrypted(blocks: Iterable[bytes], private: str) -> Iterator[bytes]:
    """Given the blocks of an encrypted file and private keys (age identities, one a line, or an SSH
    key in OpenSSH's form), yield the decrypted blocks.

    Raises WrongIdentityError, DamagedError, or what `blocks` raises. What was yielded before an
    error is not to be used.
    """
    import pyrage

    identities = _identities(private)
    return _through(lambda source, sink: pyrage.decrypt_io(source, sink, identities), blocks)


def encrypted(blocks: Iterable[bytes], recipients: Sequence[str]) -> Iterator[bytes]:
    """Given blocks, yield them encrypted."""
    import pyrage

    return _through(
        lambda source, sink: pyrage.encrypt_io(source, sink, _recipients(recipients)), blocks
    )


def _identities(private: str) -> list[Any]:
    """The keys in a text: lines of age, SSH keys."""
    import pyrage

    lines = [line for line in private.split() if line.startswith("AGE-SECRET-KEY-")]
    found: list[Any] = [pyrage.x25519.Identity.from_str(line) for line in lines]
    found += [pyrage.ssh.Identity.from_buffer(key.encode()) for key in _PEM.findall(private)]
    if not found:
        raise WrongIdentityError("no identity is at hand")
    return found


def _recipients(recipients: Sequence[str]) -> list[Any]:
    import pyrage

    return [
        pyrage.ssh.Recipient.from_str(one)
        if one.startswith("ssh-")
        else pyrage.x25519.Recipient.from_str(one)
        for one in recipients
    ]


def _through(work: Any, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What `work` makes of blocks, in a thread of its own: pyrage pushes, and we pull."""
    source, sink = _Source(blocks), _Sink()
    thread = threading.Thread(target=sink.run, args=(work, source), daemon=True)
    thread.start()
    try:
        while (block := sink.blocks.get()) is not None:
            yield block
    finally:
        sink.stop()
        thread.join()
    if source.error:
        raise source.error
    if sink.error:
        raise sink.error


class _Source:
    """Blocks as a file that pyrage reads."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = b""
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        try:
            while not self._rest:
                block = next(self._blocks, None)
                if block is None:
                    return b""
                self._rest = block
        except BaseException as error:  # noqa: BLE001
            # pyrage would make a text of it; it is raised again where the blocks are taken.
            self.error = error
            raise OSError("reading") from None
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


class _Sink:
    """A file that pyrage writes, whose blocks wait in a queue; None is the last one."""

    def __init__(self) -> None:
        self.blocks: Queue[bytes | None] = Queue(_WAITING)
        self.error: Exception | None = None
        self._stopped = False

    def run(self, work: Any, source: _Source) -> None:
        """Do the work, and note what became of it."""
        import pyrage

        try:
            work(source, self)
        except (pyrage.DecryptError, pyrage.EncryptError, pyrage.IdentityError, OSError) as error:
            if "No matching keys" in str(error):
                self.error = WrongIdentityError("it is encrypted for other keys than this identity")
            else:
                self.error = DamagedError("it is damaged or cut off: age cannot authenticate it")
        self.blocks.put(None)

    def write(self, data: bytes) -> int:
        """Take a block."""
        if self._stopped:
            raise OSError("nobody reads any more")
        self.blocks.put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def stop(self) -> None:
        """Let the work end: nobody reads what it makes."""
        self._stopped = True
        while not self.blocks.empty():
            self.blocks.get_nowait()
