"""Objects encrypted anew: read, decrypted if they are encrypted, encrypted for others, written."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from fabfile.base import age_encryption
from fabfile.base.errors import CheckFailedError, ConfigError
from fabfile.s3.objects import Objects, Part

RECIPIENTS = "recipients"
"""The object's metadata with the ids of the keys that it is encrypted for, joined by +."""


@dataclass(frozen=True)
class Prepared:
    """What an object will be: a file, its bytes, its sums in hex."""

    file: IO[bytes]
    size: int
    sha256: str
    md5: str


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

    @property
    def tag(self) -> str:
        """What names have before .age of what was encrypted anew for these."""
        return hashlib.sha256(self.metadata.encode()).hexdigest()[:8]

    def is_right(self, key: str) -> bool:
        """Whether an object says that it is encrypted for these recipients."""
        return self.objects.metadata(key).get(RECIPIENTS) == self.metadata

    @contextmanager
    def prepared(self, part: Part) -> Iterator[Prepared]:
        """An object encrypted anew, in a file without a name, for a `with` block.

        Raises ConfigError if no identity fits, CheckFailedError if it is damaged: nothing was
        written then. What is decrypted is in memory only, a block at a time.
        """
        sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with tempfile.TemporaryFile() as file:
            for block in age_encryption.encrypted(self._plain(part), self.recipients):
                file.write(block)
                sha256.update(block)
                md5.update(block)
                size += len(block)
            file.seek(0)
            yield Prepared(file, size, sha256.hexdigest(), md5.hexdigest())

    def put(self, made: Prepared, key: str, metadata: Mapping[str, str] | None = None) -> None:
        """Write it, and see that it has arrived. Raises as the bucket does."""
        self.objects.put_file(
            key,
            made.file,
            "application/octet-stream",
            {
                "sha256": made.sha256,
                "bytes": str(made.size),
                RECIPIENTS: self.metadata,
                **(metadata or {}),
            },
            made.size,
        )

    def _plain(self, part: Part) -> Iterator[bytes]:
        blocks = self.objects.read(part)
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
