"""The connection to one bucket; its refusals as our errors. Only importer of boto3 and botocore.

The credentials are those of whoever runs the command, found where AWS tools look for them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from fabfile.base.errors import UnreachableError
from fabfile.config.backup import Backup
from fabfile.s3.error_messages import UNSUPPORTED, failure, refusal

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_T = TypeVar("_T")


@dataclass(frozen=True)
class Unsupported:
    """A store does not know a call; it said `code`."""

    code: str


class Connection:
    """One bucket. `requests` counts every HTTP request to it, retries included."""

    def __init__(self, backup: Backup) -> None:
        self.requests = 0
        self.backup = backup

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self.backup.bucket

    @cached_property
    def client(self) -> S3Client:
        """boto3's client, made when it is first needed."""
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        custom = bool(self.backup.endpoint_url)
        session = boto3.Session(
            profile_name=self.backup.profile or None, region_name=self.backup.region
        )
        client: S3Client = session.client(
            "s3",
            endpoint_url=self.backup.endpoint_url or None,
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 3},
                # Some S3-compatible stores refuse the checksums that boto3 adds by itself.
                # We have our own: the SHA-256 in the object's metadata.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"} if custom else {},
                user_agent_extra="swarmkeep",
            ),
        )
        client.meta.events.register("before-send.s3", self._count)
        return client

    def _count(self, **_: Any) -> None:
        self.requests += 1

    @property
    def where(self) -> str:
        """Bucket and endpoint, for messages."""
        return f"bucket {self.name} at {self.backup.endpoint_url or 'AWS ' + self.backup.region}"

    @contextmanager
    def translated(self, action: str, *, right: str = "") -> Iterator[None]:
        """Turn what botocore raises into our errors. `right` is what the action needs."""
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
        )

        try:
            yield
        except ClientError as error:
            raise refusal(
                self.where,
                action,
                code_of(error),
                message=str(error.response.get("Error", {}).get("Message", "")),
                region=region_of(error.response),
                right=right,
            ) from error
        except (BotoCoreError, OSError) as error:
            kind = "OSError" if isinstance(error, OSError) else type(error).__name__
            raise failure(self.where, action, kind, str(error)) from error

    def ask(
        self, what: str, right: str, call: Callable[[], _T], *, absent: Collection[str] = ()
    ) -> _T | Unsupported | None:
        """Given a question to the bucket, return the answer.

        `absent` are the codes that mean "there is none": None. `Unsupported` where the store
        does not know the call.
        """
        try:
            with self.translated(f"asking for {what}", right=right):
                return call()
        except UnreachableError as error:
            code = code_of(error.__cause__)
            if code in absent:
                return None
            if code in UNSUPPORTED:
                return Unsupported(code)
            raise


def code_of(error: BaseException | None) -> str:
    """Given what botocore raised for an answer, return the answer's code."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def region_of(response: Any) -> str:
    """Given an answer of the bucket, return the region it names, or ""."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region", ""))
