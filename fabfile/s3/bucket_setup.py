"""Setting what is missing of the bucket's own settings: which changes, and making them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fabfile.config.backup import Backup
from fabfile.s3.connection import Connection, Unsupported

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

from fabfile.s3.bucket_settings import ABORTED, ABORTED_DAYS, OLD, Settings, _blocks, judge, read


@dataclass(frozen=True)
class Change:
    """One setting to be set. `name` is that of the check it mends."""

    name: str
    said: str


def changes(settings: Settings, backup: Backup, old_days: int) -> list[Change]:
    """What setup would do: make what `judge` misses right, as far as the store can. Pure."""
    wanted = {
        "bucket": f"create {backup.bucket} in {backup.region}",
        "versioning": "switch versioning on",
        "public access": "block public access",
        "encryption": f"encrypt with {backup.encryption or 'AES256'} by default",
        "aborted uploads": f"lifecycle: remove aborted uploads after {ABORTED_DAYS} days",
        "old versions": f"lifecycle: remove old versions after {old_days} days",
    }
    # A bucket that is yet to be made has none of it.
    if settings.exists:
        # With versioning, which it gets first if it can, come old versions.
        able = not isinstance(settings.versioning, Unsupported)
        then = replace(settings, versioning="Enabled") if able else settings
        names = [
            check.name
            for now, check in zip(judge(settings, backup), judge(then, backup), strict=True)
            if not now.ok or not check.ok
        ]
    else:
        names = list(wanted)
    return [Change(name, wanted[name]) for name in names if name in wanted]


def apply(connection: Connection, change: Change, backup: Backup, old_days: int) -> None:
    """Make one change. Raises UnreachableError that names the right that is missing."""
    client, name = connection.client, connection.name
    with connection.translated(change.said, right=_RIGHTS[change.name]), _with_md5(client):
        if change.name == "bucket":
            _create(client, backup)
        elif change.name == "versioning":
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        elif change.name == "public access":
            wanted: Any = dict.fromkeys(_blocks(backup), True)
            client.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=wanted)
        elif change.name == "encryption":
            client.put_bucket_encryption(
                Bucket=name, ServerSideEncryptionConfiguration=_encrypting(backup)
            )
        else:
            _put_rule(connection, change.name, old_days)


def can(change: Change, settings: Settings) -> bool:
    """Whether the store knows the setting at all."""
    asked = {
        "public access": settings.public_block,
        "encryption": settings.encryption,
        "versioning": settings.versioning,
    }
    answer = asked.get(change.name, settings.rules)
    return not settings.exists or not isinstance(answer, Unsupported)


_RIGHTS = {
    "bucket": "s3:CreateBucket",
    "versioning": "s3:PutBucketVersioning",
    "public access": "s3:PutBucketPublicAccessBlock",
    "encryption": "s3:PutEncryptionConfiguration",
    "aborted uploads": "s3:PutLifecycleConfiguration",
    "old versions": "s3:PutLifecycleConfiguration",
}


def _encrypting(backup: Backup) -> Any:
    default = {"SSEAlgorithm": backup.encryption or "AES256"}
    if backup.kms_key_id:
        default["KMSMasterKeyID"] = backup.kms_key_id
    # With a key of its own for the bucket, KMS is asked once and not for every object.
    bucket_key = {"BucketKeyEnabled": True} if backup.encryption == "aws:kms" else {}
    return {"Rules": [{"ApplyServerSideEncryptionByDefault": default, **bucket_key}]}


def _create(client: S3Client, backup: Backup) -> None:
    # us-east-1 is the one region that must not be named; other stores have names of their own.
    elsewhere = not backup.endpoint_url and backup.region != "us-east-1"
    where: Any = (
        {"CreateBucketConfiguration": {"LocationConstraint": backup.region}} if elsewhere else {}
    )
    client.create_bucket(Bucket=backup.bucket, **where)


def _put_rule(connection: Connection, name: str, old_days: int) -> None:
    """Write one of our rules; all others are written back as they are."""
    rule: dict[str, Any] = {"Status": "Enabled", "Filter": {"Prefix": ""}}
    if name == "aborted uploads":
        rule |= {
            "ID": ABORTED,
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORTED_DAYS},
        }
    else:
        rule |= {"ID": OLD, "NoncurrentVersionExpiration": {"NoncurrentDays": old_days}}
    present = read(connection).rules
    others = () if isinstance(present, Unsupported) else present
    rules: Any = [*(r for r in others if r.get("ID") != rule["ID"]), rule]
    connection.client.put_bucket_lifecycle_configuration(
        Bucket=connection.name, LifecycleConfiguration={"Rules": rules}
    )


@contextmanager
def _with_md5(client: S3Client) -> Iterator[None]:
    """Requests carry Content-MD5, the one checksum of a setting that every store understands."""

    def add(params: dict[str, Any], **_: Any) -> None:
        body = params.get("body") or b""
        if isinstance(body, bytes) and body:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()

    client.meta.events.register("before-call.s3", add)
    try:
        yield
    finally:
        client.meta.events.unregister("before-call.s3", add)
