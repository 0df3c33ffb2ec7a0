"""Objects encrypted anew: read, decrypted if they are encrypted, encrypted for others, written."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO

from fabfile.base import age_encryption
from fabfile.base.errors import CheckFailedError, ConfigError
from fabfile.s3.objects import BLOCK, Objects, Part

RECIPIENTS = "recipients"
"""The object's metadata with the ids of the keys that it is encrypted for, joined by +."""
LEFT_FOR = timedelta(days=1)
"""How long an object stays that a run which was cut off may have left: another run may be at it."""


@dataclass(frozen=True)
class Prepared:
    """What an object will be: a file, its bytes, its sums in hex."""

    file: IO[bytes]
    size: int
    sha256: str
    md5: str

    @property
    def tag(self) -> str:
        """What its name has before .age: so no two runs write the same key."""
        return self.sha256[:8]


class Reencryption:
    """Encrypts objects for `recipients`; `private` reads those that are encrypted for others."""

    def __init__(self, objects: Objects, recipients: Sequence[str], private: str) -> None:
        self.objects = objects
        self.recipients = tuple(recipients)
        self.key_ids = tuple(map(age_encryption.key_id, recipients))
        self._private = private

    @property
    def metadata(self) -> str:
        """What objects say of whom they are encrypted for."""
        return "+".join(self.key_ids)

    def is_right(self, key: str) -> bool:
        """Whether an object says that it is encrypted for these recipients."""
        return self.objects.metadata(key).get(RECIPIENTS) == self.metadata

    @contextmanager
    def prepared(self, part: Part, *, sha256: str = "", md5: str = "") -> Iterator[Prepared]:
        """An object encrypted anew, in a file without a name, for a `with` block. What is decrypted
        is in memory only, a block at a time.

        `sha256` or `md5` is what is recorded of the object as it is. Raises CheckFailedError if it
        is another, or damaged; ConfigError if no identity fits: nothing was written then.
        """
        read = _Sums()
        made = _Sums()
        with tempfile.TemporaryFile() as file:
            plain = self._plain(part, read)
            for block in age_encryption.encrypted(plain, self.recipients):
                file.write(block)
                made.add(block)
            if (sha256 and read.sha256 != sha256) or (md5 and read.md5 != md5):
                raise CheckFailedError(
                    f"{part.key} is damaged: it is not what was recorded of it; it stays as it is",
                    hint="find out who changed it; an earlier version may be in the bucket",
                )
            file.seek(0)
            yield Prepared(file, made.size, made.sha256, made.md5)

    def put(self, made: Prepared, key: str, metadata: Mapping[str, str] | None = None) -> None:
        """Write it, and read it back. Raises CheckFailedError if it is another then."""
        about = {"sha256": made.sha256, "bytes": str(made.size), RECIPIENTS: self.metadata}
        about |= metadata or {}
        part = self.objects.put_file(key, made.file, "application/octet-stream", about)
        there = _Sums()
        for block in self.objects.read(part):
            there.add(block)
        if there.sha256 != made.sha256:
            raise CheckFailedError(
                f"{key} is not what was uploaded", hint="find out who else writes there"
            )

    def forget(self, part: Part) -> None:
        """Delete what a run that was cut off has left, once it is old enough for that."""
        if datetime.now(UTC) - part.last_modified > LEFT_FOR:
            self.objects.delete(part.key)

    def _plain(self, part: Part, sums: _Sums) -> Iterator[bytes]:
        blocks = sums.of(self.objects.read(part))
        first = next(blocks, b"")
        blocks = itertools.chain([first], blocks)
        if not first.startswith(age_encryption.FIRST_LINE):
            yield from blocks
            return
        try:
            yield from age_encryption.decrypted(blocks, self._private)
        except age_encryption.WrongIdentityError:
            raise ConfigError(
                f"{part.key}: no identity at hand can decrypt it; it stays as it is",
                hint="give the identity that it is encrypted for: --identity FILE",
            ) from None
        except age_encryption.DamagedError as error:
            raise CheckFailedError(
                f"{part.key}: {error}; it stays as it is", hint="inv backup.verify --deep"
            ) from None


class _Sums:
    """Size and sums of bytes that go by."""

    def __init__(self) -> None:
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.size = 0

    def add(self, block: bytes) -> None:
        self._sha256.update(block)
        self._md5.update(block)
        self.size += len(block)

    def of(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self.add(block)
            yield block

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


assert len(age_encryption.FIRST_LINE) < BLOCK
