"""The least that each party needs in the bucket, as IAM policies. Pure.

The names of rights: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PARTIES = {
    "node": "the db and app hosts: write backups and read them back, delete nothing",
    "operator": "whoever runs verify, list, restore, drill, prune without --yes: read, and record "
    "deep reads",
    "pruner": "whoever runs backup.prune --yes: the operator's, and deleting sets",
    "rekeyer": "whoever runs backup.rekey --yes: the operator's, and replacing every object",
    "owner": "whoever runs bucket.setup: the bucket's settings",
}
_SETTINGS = (
    "BucketVersioning",
    "BucketPublicAccessBlock",
    "EncryptionConfiguration",
    "LifecycleConfiguration",
)


def policies(
    bucket: str, region: str, kms_key: str = "", prefix: str = ""
) -> dict[str, dict[str, Any]]:
    """Given a bucket's name, its region and its KMS key (id, alias or ARN; "" for none), return
    each party's policy. `prefix` is what the project's keys begin with: "" or "project/".
    """
    where = _Where(f"arn:aws:s3:::{bucket}", prefix)
    return {
        party: {"Version": "2012-10-17", "Statement": statements + _key(party, region, kms_key)}
        for party, statements in {
            "node": _node(where),
            "operator": _operator(where),
            "pruner": _operator(where) + _pruner(where),
            "rekeyer": _operator(where) + _rekeyer(where),
            "owner": _owner(where),
        }.items()
    }


@dataclass(frozen=True)
class _Where:
    """A bucket and a project's place in it."""

    bucket: str
    prefix: str

    @property
    def parts(self) -> list[str]:
        return [f"{self.prefix}{kind}/*" for kind in ("postgres", "files", "wal")]

    @property
    def objects(self) -> list[str]:
        return [f"{self.bucket}/{part}" for part in self.parts]

    @property
    def sets(self) -> str:
        return f"{self.bucket}/{self.prefix}postgres"

    @property
    def prunable(self) -> list[str]:
        return [f"{self.sets}/*", f"{self.bucket}/{self.prefix}wal/*"]


def _node(where: _Where) -> list[dict[str, Any]]:
    uploads = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    listing = _allow(["s3:ListBucket"], [where.bucket])
    listing["Condition"] = {"StringLike": {"s3:prefix": where.parts}}
    # Whether another cluster is the right one, a person says, not whoever has a node.
    accepting = _allow(["s3:PutObject"], [f"{where.sets}/*/cluster.json"]) | {"Effect": "Deny"}
    return [_allow(["s3:GetObject", *uploads], where.objects), accepting, listing]


def _operator(where: _Where) -> list[dict[str, Any]]:
    # Drills are recorded by the node.
    outcomes = [f"{where.sets}/*.deep.json", f"{where.sets}/*/cluster.json"]
    outcomes.append(f"{where.sets}/report.html")
    settings = [f"s3:Get{name}" for name in _SETTINGS]
    listing = ["s3:ListBucket", "s3:GetBucketObjectLockConfiguration", *settings]
    return [
        _allow(["s3:GetObject"], where.objects),
        _allow(["s3:PutObject"], outcomes),
        # What prune asks, with Object Lock, of each set that would go.
        _allow(
            ["s3:GetObjectRetention", "s3:GetObjectLegalHold"],
            where.prunable,
        ),
        _allow(listing, [where.bucket]),
    ]


def _pruner(where: _Where) -> list[dict[str, Any]]:
    return [_allow(["s3:DeleteObject"], where.prunable)]


def _rekeyer(where: _Where) -> list[dict[str, Any]]:
    rights = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return [_allow(rights, where.objects)]


def _owner(where: _Where) -> list[dict[str, Any]]:
    settings = [f"s3:{verb}{name}" for name in _SETTINGS for verb in ("Get", "Put")]
    rights = ["s3:CreateBucket", "s3:ListBucket", "s3:GetBucketObjectLockConfiguration"]
    return [_allow(rights + settings, [where.bucket])]


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
