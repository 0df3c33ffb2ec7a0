"""The bucket and its two keys: the operator's, and the nodes' which can write but not delete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import SwarmkeepError
from fabfile.s3.policies import policies
from lab import docker
from lab.model import REGION, S3, Lab

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OPERATOR = "operator"
NODE = "node"
PROBE = "files/lab-probe"
"""Where the nodes may write."""

Key = dict[str, str]


def ensure(lab: Lab, known: dict[str, Any]) -> dict[str, Key]:
    """Return both keys, user -> {"access_key", "secret_key"}, once the bucket is as it should be.

    `known` holds the keys of an earlier time; if they still work nothing is asked or written.
    """
    keys = {user: known[user] for user in (OPERATOR, NODE) if user in known}
    if len(keys) == 2 and not look(lab, keys):
        return keys
    keys = {user: key_of(lab, user) for user in (OPERATOR, NODE)}
    _make_bucket(lab, client(lab, keys[OPERATOR]))
    prove(lab, keys)
    return keys


def look(lab: Lab, keys: dict[str, Key]) -> str:
    """Return "" if both keys can list the bucket, else what is wrong."""
    from botocore.exceptions import (  # type: ignore[import-untyped]
        BotoCoreError,
        ClientError,
    )

    for user in (OPERATOR, NODE):
        try:
            client(lab, keys[user]).list_objects_v2(Bucket=lab.bucket, Prefix=PROBE, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            return f"the {user}'s key cannot list the bucket: {error}"
    return ""


def policy(bucket: str) -> str:
    """The bucket's policy: the nodes have what `inv bucket.policies` prints for them, no more.

    So every run in the lab proves that this is enough.

    The operator is named too: an object belongs to who wrote it, and without that line the
    bucket's owner could not read what the nodes write. What is denied stays denied, even where
    a node owns the object.
    """
    both = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    operator, node = (principal(user) for user in (OPERATOR, NODE))
    forbidden = [
        "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectAcl", "s3:PutObjectVersionAcl",
        "s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:PutLifecycleConfiguration",
    ]  # fmt: skip
    printed = policies(bucket, REGION)["node"]["Statement"]
    statements = [
        {"Effect": "Allow", "Action": ["s3:*"], "Resource": both, "Principal": operator},
        *({**statement, "Principal": node} for statement in printed),
        {"Effect": "Deny", "Action": forbidden, "Resource": both, "Principal": node},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def principal(user: str) -> dict[str, Any]:
    """How a bucket's policy names a user of this server."""
    return {"AWS": [f"arn:aws:iam:::user/{user}"]}


def prove(lab: Lab, keys: dict[str, Key]) -> None:
    """Try what each key may do and may not do; SwarmkeepError if that is not as promised."""
    from botocore.exceptions import ClientError

    node, operator = client(lab, keys[NODE]), client(lab, keys[OPERATOR])
    node.put_object(Bucket=lab.bucket, Key=PROBE, Body=b"probe")
    try:
        node.delete_object(Bucket=lab.bucket, Key=PROBE)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
    else:
        raise SwarmkeepError(
            "the nodes' S3 key can delete objects: the bucket policy has no effect"
        )
    read = operator.get_object(Bucket=lab.bucket, Key=PROBE)["Body"].read()
    operator.delete_object(Bucket=lab.bucket, Key=PROBE)
    listed = node.list_objects_v2(Bucket=lab.bucket, Prefix=PROBE)["KeyCount"]
    if read != b"probe" or listed:
        raise SwarmkeepError("the operator's S3 key cannot read and delete what the nodes write")


def client(lab: Lab, key: Key) -> S3Client:
    """An S3 client of the lab's server for one of its keys."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    session = boto3.Session(
        aws_access_key_id=key["access_key"],
        aws_secret_access_key=key["secret_key"],
        region_name=REGION,
    )
    config = Config(
        s3={"addressing_style": "path"},
        connect_timeout=5,
        read_timeout=30,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={},
    )
    made: S3Client = session.client("s3", endpoint_url=lab.s3_url, config=config)
    return made


def key_of(lab: Lab, user: str) -> Key:
    """Ask the gateway for a user's key; it makes user and key if there is none."""
    found = json.loads(docker.inside(lab.container(S3), "s3-user", user))["keys"][0]
    return {"access_key": found["access_key"], "secret_key": found["secret_key"]}


def _make_bucket(lab: Lab, operator: S3Client) -> None:
    # Making a bucket that one owns already succeeds in us-east-1, and changes nothing.
    operator.create_bucket(Bucket=lab.bucket)
    operator.put_bucket_policy(Bucket=lab.bucket, Policy=policy(lab.bucket))
