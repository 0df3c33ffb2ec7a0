"""The least that each party needs in the bucket, as IAM policies. Pure.

The names of rights: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
"""

from __future__ import annotations

from typing import Any

PARTIES = {
    "node": "the db and app hosts: write backups and read them back, delete nothing",
    "operator": "whoever runs verify, list, restore, drill, prune without --yes: read, and record "
    "deep reads",
    "pruner": "whoever runs backup.prune --yes: the operator's, and deleting sets",
    "owner": "whoever runs bucket.setup: the bucket's settings",
}
_PARTS = ("postgres/*", "files/*")
_SETTINGS = (
    "BucketVersioning",
    "BucketPublicAccessBlock",
    "EncryptionConfiguration",
    "LifecycleConfiguration",
)


def policies(bucket: str, region: str, kms_key: str = "") -> dict[str, dict[str, Any]]:
    """Given a bucket's name, its region and its KMS key (id, alias or ARN; "" for none), return
    each party's policy.
    """
    return {
        party: {"Version": "2012-10-17", "Statement": statements + _key(party, region, kms_key)}
        for party, statements in {
            "node": _node(bucket),
            "operator": _operator(bucket),
            "pruner": _operator(bucket) + _pruner(bucket),
            "owner": _owner(bucket),
        }.items()
    }


def _node(bucket: str) -> list[dict[str, Any]]:
    uploads = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    listing = _allow(["s3:ListBucket"], [_arn(bucket)])
    listing["Condition"] = {"StringLike": {"s3:prefix": list(_PARTS)}}
    return [_allow(["s3:GetObject", *uploads], _objects(bucket)), listing]


def _operator(bucket: str) -> list[dict[str, Any]]:
    # Drills are recorded by the node.
    outcomes = [f"{_arn(bucket)}/postgres/*.deep.json"]
    settings = [f"s3:Get{name}" for name in _SETTINGS]
    return [
        _allow(["s3:GetObject"], _objects(bucket)),
        _allow(["s3:PutObject"], outcomes),
        # What prune asks, with Object Lock, of each set that would go.
        _allow(["s3:GetObjectRetention", "s3:GetObjectLegalHold"], _sets(bucket)),
        _allow(["s3:ListBucket", "s3:GetBucketObjectLockConfiguration", *settings], [_arn(bucket)]),
    ]


def _pruner(bucket: str) -> list[dict[str, Any]]:
    return [_allow(["s3:DeleteObject"], _sets(bucket))]


def _owner(bucket: str) -> list[dict[str, Any]]:
    settings = [f"s3:{verb}{name}" for name in _SETTINGS for verb in ("Get", "Put")]
    rights = ["s3:CreateBucket", "s3:ListBucket", "s3:GetBucketObjectLockConfiguration"]
    return [_allow(rights + settings, [_arn(bucket)])]


def _key(party: str, region: str, kms_key: str) -> list[dict[str, Any]]:
    """The right to use the KMS key, which a policy names by ARN only, and by alias as a condition.

    https://docs.aws.amazon.com/kms/latest/developerguide/cmks-in-iam-policies.html
    """
    if not kms_key or party == "owner":
        return []
    where, _, name = kms_key.rpartition(":")
    where = where or f"arn:aws:kms:{region}:*"
    alias = name.startswith("alias/")
    key = "*" if alias else name.removeprefix("key/")
    allowed = _allow(["kms:GenerateDataKey", "kms:Decrypt"], [f"{where}:key/{key}"])
    if alias:
        # Not RequestAlias: who reads an object names no key.
        allowed["Condition"] = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}}
    return [allowed]


def _allow(rights: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": rights, "Resource": resources}


def _objects(bucket: str) -> list[str]:
    return [f"{_arn(bucket)}/{part}" for part in _PARTS]


def _sets(bucket: str) -> list[str]:
    return [f"{_arn(bucket)}/postgres/*"]


def _arn(bucket: str) -> str:
    return f"arn:aws:s3:::{bucket}"
