"""The bucket's own settings: what they are, what is wrong with them, and setting them right.

What is there already is kept: of the lifecycle rules only our own are ever written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fabfile.base.check import Check
from fabfile.config.backup import Backup
from fabfile.s3.connection import Connection, Unsupported

if TYPE_CHECKING:
    pass

ABORTED_DAYS = 7
"""After so many days what an upload that was cut off has left behind is removed."""
ABORTED, OLD = "swarmkeep-aborted-uploads", "swarmkeep-old-versions"
"""The IDs of our lifecycle rules."""

_BLOCKS = ("IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
# On AWS only: under it Ceph (16.2, measured) refuses every upload, with an ACL or without. What
# it adds is little: IgnorePublicAcls leaves public ACLs without effect.
_BLOCK_ACLS = "BlockPublicAcls"
_SETUP = "inv bucket.setup shows what it would set, and sets it with --yes"
_LACKS = "this store has no such setting ({}): see its own documentation"


@dataclass(frozen=True)
class Settings:
    """What a bucket says of itself. `Unsupported` where the store does not know the question.

    `versioning` is "Enabled", "Suspended" or ""; `encryption` "AES256", "aws:kms" or "".
    """

    exists: bool
    versioning: str | Unsupported = ""
    public_block: Mapping[str, Any] | Unsupported = field(default_factory=dict)
    encryption: str | Unsupported = ""
    rules: Sequence[Mapping[str, Any]] | Unsupported = ()
    locked: bool = False


def read(connection: Connection) -> Settings:
    """Ask the bucket. Raises UnreachableError or ConfigError."""
    client, name = connection.client, connection.name

    def ask(what: str, right: str, call: Callable[[], Any], *absent: str) -> Any:
        return connection.ask(what, f"s3:Get{right}", call, absent=absent)

    head = connection.ask(
        "the bucket",
        "s3:ListBucket",
        lambda: client.head_bucket(Bucket=name),
        absent=("404", "NoSuchBucket"),
    )
    if head is None:
        return Settings(exists=False)
    lock = ask(
        "Object Lock",
        "BucketObjectLockConfiguration",
        lambda: client.get_object_lock_configuration(Bucket=name),
        "ObjectLockConfigurationNotFoundError",
    )
    return Settings(
        exists=True,
        versioning=ask(
            "versioning",
            "BucketVersioning",
            lambda: client.get_bucket_versioning(Bucket=name).get("Status", ""),
        ),
        public_block=ask(
            "the block of public access",
            "BucketPublicAccessBlock",
            lambda: client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"],
            "NoSuchPublicAccessBlockConfiguration",
        )
        or {},
        encryption=ask(
            "default encryption",
            "EncryptionConfiguration",
            lambda: _algorithm(client.get_bucket_encryption(Bucket=name)),
            "ServerSideEncryptionConfigurationNotFoundError",
        )
        or "",
        rules=ask(
            "lifecycle rules",
            "LifecycleConfiguration",
            lambda: client.get_bucket_lifecycle_configuration(Bucket=name).get("Rules", []),
            "NoSuchLifecycleConfiguration",
        )
        or (),
        locked=lock is not None and not isinstance(lock, Unsupported),
    )


def judge(settings: Settings, backup: Backup) -> list[Check]:
    """Given a bucket's settings and what hosts.yaml wants, return every check. Pure."""
    if not settings.exists:
        return [Check("bucket", False, f"{backup.bucket} does not exist", _SETUP)]
    lock = ", with Object Lock" if settings.locked else ""
    return [
        Check("bucket", True, f"{backup.bucket} is there{lock}"),
        _versioning(settings),
        _public(settings, backup),
        _encryption(settings, backup),
        _aborted(settings, backup),
        _old_versions(settings, backup),
        _expiry(settings, backup),
    ]


def _versioning(settings: Settings) -> Check:
    said = settings.versioning
    if isinstance(said, Unsupported):
        return Check("versioning", False, "not to be had", _LACKS.format(said.code))
    return Check(
        "versioning",
        said == "Enabled",
        "on: what is overwritten or deleted stays as an old version"
        if said == "Enabled"
        else f"{said.lower() or 'off'}: whoever gets a node's key can overwrite every backup",
        _SETUP,
    )


def _blocks(backup: Backup) -> tuple[str, ...]:
    return _BLOCKS if backup.endpoint_url else (_BLOCK_ACLS, *_BLOCKS)


def _public(settings: Settings, backup: Backup) -> Check:
    block = settings.public_block
    if isinstance(block, Unsupported):
        return _not_asked("public access", block)
    open_ = [name for name in _blocks(backup) if not block.get(name)]
    detail = f"not blocked: {', '.join(open_)}" if open_ else "blocked"
    return Check("public access", not open_, detail, _SETUP)


def _encryption(settings: Settings, backup: Backup) -> Check:
    said = settings.encryption
    if isinstance(said, Unsupported):
        return _not_asked("encryption", said)
    wanted = backup.encryption
    ok = bool(said) and wanted in ("", said)
    detail = f"{said} by default" if said else "objects are not encrypted by default"
    if said and not ok:
        detail += f", backup.encryption in hosts.yaml is {wanted}"
    return Check("encryption", ok, detail, _SETUP)


def _aborted(settings: Settings, backup: Backup) -> Check:
    if isinstance(settings.rules, Unsupported):
        return _not_asked("aborted uploads", settings.rules)
    days = _days(backup, settings.rules, "AbortIncompleteMultipartUpload", "DaysAfterInitiation")
    detail = (
        f"removed after {days} days"
        if days
        else "what uploads that were cut off have left is never removed, and is paid for"
    )
    return Check("aborted uploads", bool(days), detail, _SETUP)


def _old_versions(settings: Settings, backup: Backup) -> Check:
    name = "old versions"
    if isinstance(settings.rules, Unsupported):
        return _not_asked(name, settings.rules)
    days = _days(backup, settings.rules, "NoncurrentVersionExpiration", "NoncurrentDays")
    if days:
        return Check(name, True, f"removed after {days} days")
    if not settings.versioning or isinstance(settings.versioning, Unsupported):
        return Check(name, True, "there are none without versioning")
    return Check(name, False, "what was deleted is never removed, and is paid for", _SETUP)


def _expiry(settings: Settings, backup: Backup) -> Check:
    """A rule that deletes by age knows neither what is proven nor which attachments are in use."""
    name = "expiry"
    if isinstance(settings.rules, Unsupported):
        return Check(name, True, "no lifecycle rules in this store")
    for rule in settings.rules:
        if rule.get("Status") != "Enabled" or not _touches(rule, backup):
            continue
        gone = rule.get("Expiration", {})
        if gone.get("Days") or gone.get("Date"):
            return Check(
                name,
                False,
                f"lifecycle rule {rule.get('ID', '?')!r} deletes backups by their age alone",
                "an attachment that is still in use may be years old: take the rule off files/, "
                "and leave postgres/ to inv backup.prune",
            )
    return Check(name, True, "no lifecycle rule deletes backups")


def _not_asked(name: str, said: Unsupported) -> Check:
    return Check(name, True, _LACKS.format(said.code))


def _days(backup: Backup, rules: Sequence[Mapping[str, Any]], action: str, key: str) -> int:
    """After how many days all backups are under this action; 0 if not all are."""
    found = []
    for prefix in backup.folders:
        days = [
            int(rule[action][key])
            for rule in rules
            if rule.get("Status") == "Enabled"
            and rule.get(action, {}).get(key)
            and prefix.startswith(_prefix(rule))
            and not _narrowed(rule)
        ]
        if not days:
            return 0
        found.append(min(days))
    return max(found)


def _touches(rule: Mapping[str, Any], backup: Backup) -> bool:
    """Whether a rule is about any of the backups."""
    own = _prefix(rule)
    return any(prefix.startswith(own) or own.startswith(prefix) for prefix in backup.folders)


def _prefix(rule: Mapping[str, Any]) -> str:
    chosen = rule.get("Filter") or {}
    return str(
        rule.get("Prefix") or chosen.get("Prefix") or chosen.get("And", {}).get("Prefix") or ""
    )


def _narrowed(rule: Mapping[str, Any]) -> bool:
    """Whether a rule is about some objects only, by tag or size."""
    return bool(set(rule.get("Filter") or {}) - {"Prefix"})


def _algorithm(answer: Mapping[str, Any]) -> str:
    # Ceph answers without rules where there are none.
    rules = answer["ServerSideEncryptionConfiguration"].get("Rules")
    return str(rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]) if rules else ""
