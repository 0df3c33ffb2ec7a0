"""Objects of the bucket: reading small ones whole and large ones in blocks, writing, listing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from fabfile.base.errors import UnreachableError
from fabfile.config.backup import Backup
from fabfile.s3.connection import Connection, code_of

if TYPE_CHECKING:
    from botocore.response import StreamingBody  # type: ignore[import-untyped]
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

BLOCK = 256 * 1024
"""Bytes read from an object at a time."""
_SMALL = 64 * 1024 * 1024
"""Bytes: no manifest is larger, so nothing larger is read as one."""
_BREAKS = 5
"""How often the reading of one object is taken up again after its connection broke."""


@dataclass(frozen=True)
class Part:
    """One object, as a listing shows it."""

    key: str
    size: int
    last_modified: datetime
    etag: str = ""


class Objects(Connection):
    """The bucket's objects, by their keys."""

    def read(self, part: Part) -> Iterator[bytes]:
        """The bytes of an object, block by block, once.

        A connection that breaks is taken up again where it broke, so long as it is still
        the same object.
        """
        place = 0
        breaks = 0
        while place < part.size:
            body = self._open(part, place)
            try:
                for block in self._blocks(body, part.key):
                    place += len(block)
                    yield block
                if place < part.size:
                    raise UnreachableError(
                        f"{self.where} ended {part.key} after {place} of {part.size} bytes",
                        hint="run again; if it stays, see what aws s3api head-object says of it",
                    )
            except UnreachableError:
                breaks += 1
                if breaks > _BREAKS:
                    raise

    def small(self, key: str) -> bytes | None:
        """The content of a small object; None if there is none."""
        try:
            with self.translated(f"reading {key}"):
                answer = self.client.get_object(Bucket=self.name, Key=key)
                with answer["Body"] as body:
                    content: bytes = body.read(_SMALL)
                    return content
        except UnreachableError as error:
            if code_of(error.__cause__) in ("NoSuchKey", "404"):
                return None
            raise

    def beginning(self, key: str, size: int) -> bytes:
        """The first bytes of an object, at most `size`; b"" where it is empty, or not there."""
        try:
            with self.translated(f"reading {key}"):
                answer = self.client.get_object(
                    Bucket=self.name, Key=key, Range=f"bytes=0-{size - 1}"
                )
                with answer["Body"] as body:
                    content: bytes = body.read(size)
                    return content
        except UnreachableError as error:
            if code_of(error.__cause__) in ("NoSuchKey", "404", "InvalidRange", "416"):
                return b""
            raise

    def put(self, key: str, content: Mapping[str, Any]) -> bytes:
        """Write an object of JSON and return its text."""
        text = json.dumps(content, indent=1).encode()
        self.put_text(key, text, "application/json")
        return text

    def put_text(self, key: str, text: bytes, kind: str) -> None:
        """Write an object of the content type `kind`."""
        with self.translated(f"writing {key}"):
            self.client.put_object(
                Bucket=self.name, Key=key, Body=text, ContentType=kind, **_encryption(self.backup)
            )

    def put_file(self, key: str, file: IO[bytes], kind: str, metadata: Mapping[str, str]) -> Part:
        """Write an object from a file, with its metadata; return what is there then."""
        more = {"ContentType": kind, "Metadata": dict(metadata), **_encryption(self.backup)}
        with self.translated(f"writing {key}"):
            self.client.upload_fileobj(file, self.name, key, ExtraArgs=more)
            answer = self.client.head_object(Bucket=self.name, Key=key)
        when = answer["LastModified"].astimezone(UTC)
        return Part(key, answer["ContentLength"], when, answer["ETag"])

    def replace_text(self, key: str, text: bytes, kind: str, etag: str) -> None:
        """Write an object in the place of the one with this ETag.

        Raises UnreachableError if another is there by now. (S3 can look at that itself, If-Match;
        stores that speak its language compare it in different ways, or not at all.)
        """
        now = self.part(key)
        if now is None or now.etag != etag:
            raise UnreachableError(
                f"{key} was changed while this ran", hint="find out by whom, then run this again"
            )
        self.put_text(key, text, kind)

    def part(self, key: str) -> Part | None:
        """What is there under a key; None if nothing is."""
        return next((one for one in self.parts(key) if one.key == key), None)

    def metadata(self, key: str) -> Mapping[str, str]:
        """What was noted about an object when it was uploaded."""
        with self.translated(f"reading {key}"):
            return self.client.head_object(Bucket=self.name, Key=key)["Metadata"]

    def delete(self, key: str) -> None:
        """Delete an object. Raises UnreachableError, with the right that is missing."""
        with self.translated(f"deleting {key}", right="s3:DeleteObject"):
            self.client.delete_object(Bucket=self.name, Key=key)

    def parts(self, prefix: str) -> Iterator[Part]:
        """Every object whose key begins with `prefix`."""
        for page in self.list_all({"Prefix": prefix}):
            for item in page.get("Contents", []):
                when = item["LastModified"].astimezone(UTC)
                yield Part(item["Key"], item["Size"], when, item["ETag"])

    def list_all(self, options: dict[str, Any]) -> Iterator[ListObjectsV2OutputTypeDef]:
        """Every page of a listing."""
        more: dict[str, Any] = {}
        while True:
            page = self.list_page(options | more)
            yield page
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def list_page(self, options: dict[str, Any]) -> ListObjectsV2OutputTypeDef:
        """The first page of a listing that has something in it, or the end."""
        with self.translated(f"listing {options['Prefix']}*"):
            answer = self.client.list_objects_v2(Bucket=self.name, **options)
            # Allowed, and rare: nothing found yet, and not at the end either.
            while answer["IsTruncated"] and not answer["KeyCount"]:
                token = answer["NextContinuationToken"]
                more = options | {"ContinuationToken": token}
                answer = self.client.list_objects_v2(Bucket=self.name, **more)
            return answer

    def _open(self, part: Part, place: int) -> StreamingBody:
        """Ask for an object from a byte on, refusing one that has changed since it was listed."""
        rest: dict[str, Any] = {"Range": f"bytes={place}-"} if place else {}
        with self.translated(f"reading {part.key}"):
            answer = self.client.get_object(
                Bucket=self.name, Key=part.key, IfMatch=part.etag, **rest
            )
        if place and not answer.get("ContentRange", "").startswith(f"bytes {place}-"):
            raise UnreachableError(
                f"{self.where} broke off in {part.key} and cannot resume at byte {place}",
                hint="run again, over a better connection",
            )
        return answer["Body"]

    def _blocks(self, body: StreamingBody, key: str) -> Iterator[bytes]:
        with body:
            while True:
                with self.translated(f"reading {key}"):
                    block = body.read(BLOCK)
                if not block:
                    return
                yield block


def _encryption(backup: Backup) -> Any:
    """What an upload asks for, as the scripts do; nothing where that is left to the bucket."""
    asked = {"ServerSideEncryption": backup.encryption, "SSEKMSKeyId": backup.kms_key_id}
    return {name: value for name, value in asked.items() if value}
