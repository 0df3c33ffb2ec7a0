"""Reading a backup completely, once: SHA-256, gzip stream, archive. Bounded memory, no I/O.

The bytes come from any iterable and go to any sink; the bucket and pg_restore are the
caller's business.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fabfile.backup.sets import Recorded
from fabfile.base.check import Check
from fabfile.base.units import format_size

MAGIC = b"PGDMP"
"""What pg_dump's custom format starts with (pg_backup_custom.c)."""
HEAD = 4096
_ENOUGH = 64 * 1024
"""Compressed bytes in which the first HEAD bytes must show."""
_BLOCK = 1024 * 1024
_GZIP = 31  # zlib's wbits for one gzip member with its header and CRC
NOT_CHECKED = "not checked"
"""What the detail of a check begins with that could not be made: it proves nothing either way."""
_HINT = (
    "keep the older backups and check those too; inv backup.run makes a new one, "
    "inv backup.logs shows what the last runs said"
)


@dataclass(frozen=True)
class Verdict:
    """What reading an archive has shown."""

    ok: bool
    detail: str
    hint: str = ""


class Gunzip:
    """A gzip stream of one or more members, read to its end.

    `problem` says what is wrong with it, "" while nothing is. `size` counts the bytes
    that came out.
    """

    def __init__(self) -> None:
        self.problem = ""
        self.size = 0
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Given the next bytes of the stream, yield what they decompress to, in blocks."""
        while data and not self.problem:
            # pigz and cat may write several members; what follows the last one must be one too.
            fresh = self._member is None
            self._member = self._member or zlib.decompressobj(_GZIP)
            try:
                block = self._member.decompress(data, _BLOCK)
                while block:
                    self.size += len(block)
                    yield block
                    block = self._member.decompress(self._member.unconsumed_tail, _BLOCK)
            except zlib.error as error:
                trailing = fresh and self._members
                self.problem = (
                    "bytes that are not gzip follow its end" if trailing else f"broken: {error}"
                )
                return
            data = self._member.unused_data
            if self._member.eof:
                self._members += 1
                self._member = None

    def close(self) -> None:
        """Note the end of the bytes."""
        if self._member is not None and not self.problem:
            self.problem = "it is cut off: it ends before its checksum"
        elif not self._members and not self.problem:
            self.problem = "it is empty"


Decrypt = Callable[[Iterator[bytes]], Iterator[bytes]]
"""Makes the decrypted blocks of encrypted ones. Raises ValueError that says what is wrong."""


class Reading:
    """One pass over an object's bytes. Whoever takes blocks from it moves it forward.

    `on_bytes` is told how many bytes were read so far. `failed`: the bytes' source has
    raised an error, which is not the sink's. `undecryptable`: why it cannot be decrypted.
    """

    def __init__(
        self,
        blocks: Iterable[bytes],
        on_bytes: Callable[[int], None] = lambda _count: None,
        decrypt: Decrypt | None = None,
    ) -> None:
        self.size = 0
        self.failed = False
        self.undecryptable = ""
        self.gunzip = Gunzip()
        self._on_bytes = on_bytes
        self._sha256 = hashlib.sha256()
        self._stored = self._counted(blocks)
        self._blocks = self._decrypted(decrypt(self._stored)) if decrypt else self._stored
        self._first = b""
        self._rest = self._expand()
        # A sink may read in a thread of its own and be given up by us while it does.
        self._lock = threading.Lock()

    @property
    def sha256(self) -> str:
        """SHA-256 of what was read so far, in hex."""
        return self._sha256.hexdigest()

    def head(self) -> bytes:
        """The first bytes after decompression, without moving forward; b"" if there are none."""
        expanded = b""
        while len(expanded) < HEAD and len(self._first) < _ENOUGH and (block := self._next()):
            self._first += block
            try:
                expanded = zlib.decompressobj(_GZIP).decompress(self._first, HEAD)
            except zlib.error:
                break
        return expanded

    def plain(self) -> Iterator[bytes]:
        """The decompressed blocks. They end early where the gzip stream is broken."""
        return self._rest

    def packed(self) -> Iterator[bytes]:
        """The blocks as they are, decompressed on the side."""
        while True:
            with self._lock:
                block = self._pull()
                for _ in self.gunzip.feed(block):
                    pass
            if not block:
                return
            yield block

    def finish(self) -> None:
        """Read what is left, so that hash and gzip stream are complete."""
        for _ in self._rest:
            pass
        # What could not be decrypted is hashed to its end all the same.
        for _ in self._stored:
            pass
        self.gunzip.close()

    def _expand(self) -> Iterator[bytes]:
        while True:
            with self._lock:
                block = self._pull()
            if not block:
                return
            yield from self.gunzip.feed(block)

    def _pull(self) -> bytes:
        block, self._first = self._first or self._next(), b""
        return block

    def _next(self) -> bytes:
        return next(self._blocks, b"")

    def _counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The object's own blocks, of which size and hash are noted."""
        try:
            for block in blocks:
                self._sha256.update(block)
                self.size += len(block)
                self._on_bytes(self.size)
                yield block
        except GeneratorExit:
            raise
        except BaseException:
            self.failed = True
            raise

    def _decrypted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from blocks
        except ValueError as error:
            self.undecryptable = str(error)


Sink = Callable[[Reading], Verdict]
"""Reads an archive to its end and says whether it is whole."""


def inspect(recorded: Recorded, reading: Reading, choose: Callable[[bytes], Sink]) -> list[Check]:
    """Given what is recorded of a dump and its bytes, read it completely and return the checks.

    `choose` is given the archive's first bytes and returns the sink that can read it.
    """
    head = reading.head()
    if head.startswith(MAGIC):
        verdict = choose(head)(reading)
    else:
        verdict = Verdict(False, "it is no archive of pg_dump -Fc", _HINT)
    reading.finish()
    if reading.undecryptable:
        verdict = Verdict(False, f"cannot be decrypted: {reading.undecryptable}", _HINT)
    return [
        _sha256(recorded, reading),
        _gzip(reading),
        Check("archive", verdict.ok, verdict.detail, verdict.hint or _HINT),
    ]


def inspect_encrypted(recorded: Recorded, reading: Reading, keys: Sequence[str]) -> list[Check]:
    """The same of a dump that nobody here can decrypt: it is encrypted for these `keys`."""
    reading.finish()
    return [
        _sha256(recorded, reading),
        Check(
            "archive",
            False,
            f"{NOT_CHECKED}: it is encrypted, and the identity of none of its keys is at hand "
            f"({', '.join(keys)})",
            "give one: in the vault (vault_backup_identity), or --identity FILE",
        ),
    ]


def inspect_other(
    name: str, recorded: Recorded, reading: Reading, *, encrypted: bool = False
) -> Check:
    """Given what is recorded of a part that is no archive and its bytes, read it completely;
    `encrypted`: nobody here can decrypt it.
    """
    reading.finish()
    checks = [_sha256(recorded, reading)]
    checks += [] if encrypted else [_gzip(reading)]
    wrong = [check.detail for check in checks if not check.ok]
    return Check(name, not wrong, "; ".join(wrong or [check.detail for check in checks]), _HINT)


def _sha256(recorded: Recorded, reading: Reading) -> Check:
    ok = recorded.sha256 == reading.sha256 and reading.size == recorded.size
    differs = f"differs: {recorded.sha256} was recorded, it is {reading.sha256}"
    what = "as recorded" if ok else differs
    return Check("sha256", ok, f"{what}, over {reading.size} bytes", _HINT)


def _gzip(reading: Reading) -> Check:
    problem = reading.gunzip.problem
    whole = f"whole, {format_size(reading.gunzip.size)} when decompressed"
    return Check("gzip", not problem, problem or whole, _HINT)
