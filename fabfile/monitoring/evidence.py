"""What an auditor asks for, from the bucket and the audit log, as plain data without secrets.

Each part has a SHA-256 over its own canonical JSON (sorted keys, no spaces), and the whole has one
over those: two runs over the same time that say the same have the same sums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fabfile.base import age_encryption
from fabfile.s3 import policies
from fabfile.s3.connection import Unsupported
from fabfile.wal.archive import WalArchive

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.s3.bucket_settings import Settings
    from fabfile.wal.chain import History

FORMAT = 1


def collect(
    inventory: Inventory,
    bucket: Bucket,
    settings: Settings,
    audit: Sequence[Mapping[str, Any]] | None,
    since: datetime,
    until: datetime,
) -> dict[str, Any]:
    """Given the bucket, its settings and the audit log's entries (None: nobody could be asked),
    return the evidence for the time from `since` to `until` (UTC). Raises as the bucket does.
    """
    backups: list[dict[str, Any]] = []
    drills: list[dict[str, Any]] = []
    for database in inventory.postgres.databases:
        listed = bucket.latest(database, until, 0).backups
        wanted = [one for one in listed if since <= one.timestamp <= until]
        for one in reversed(bucket.with_proofs(database, wanted)):
            if one.project.is_another(bucket.project_id):
                continue
            backups.append(_backup(database, one))
            drills += _drills(database, one)
    parts: dict[str, Any] = {
        "backups": backups,
        "drills": drills,
        "point_in_time": _point_in_time(inventory, bucket, until),
        "retention": asdict(inventory.backup.retention),
        "encryption": _encryption(inventory, settings),
        "deletion": _deletion(inventory, settings),
        "audit": None if audit is None else list(_entries(audit, since, until)),
    }
    sums = {name: digest(part) for name, part in parts.items()}
    return {
        "format": FORMAT,
        "project": {"name": inventory.project, "id": bucket.project_id},
        "bucket": bucket.name,
        "since": f"{since:%Y-%m-%dT%H:%M:%SZ}",
        "until": f"{until:%Y-%m-%dT%H:%M:%SZ}",
        **parts,
        "sha256": {**sums, "all": digest(sums)},
    }


def digest(part: Any) -> str:
    """The SHA-256 of a part's canonical JSON."""
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _backup(database: str, one: BackupSet) -> dict[str, Any]:
    said = one.manifest
    return {
        "database": database,
        "set": one.stamp,
        "taken": f"{one.timestamp:%Y-%m-%dT%H:%M:%SZ}",
        "received": f"{one.last_modified:%Y-%m-%dT%H:%M:%SZ}",
        "proven": one.rung,
        "flaw": one.flaw,
        "objects": {
            name: {
                "key": part.key,
                "bytes": part.size,
                "sha256": said.parts[name].sha256 if said and name in said.parts else None,
            }
            for name, part in sorted(one.parts.items())
        },
        "recipients": list(one.recipients),
        "rows": one.rows,
        "tables": len(said.rows) if said and said.rows is not None else None,
        "server_version": said.server_version if said else None,
        "cluster": said.cluster if said else None,
        "tool": said.tool if said else None,
    }


def _drills(database: str, one: BackupSet) -> list[dict[str, Any]]:
    return [
        {
            "database": database,
            "set": one.stamp,
            "kind": {"drill": "restored", "deep": "read"}[name],
            "ok": proof.ok,
            "finished": proof.finished,
            "seconds": proof.seconds,
            "reason": proof.reason,
        }
        for name, proof in sorted(one.proofs.items())
    ]


def _point_in_time(
    inventory: Inventory, bucket: Bucket, until: datetime
) -> list[dict[str, Any]] | None:
    """Of each cluster with base backups: from when to when any second can be restored, and what the
    last drill replayed. None where point-in-time recovery is not switched on.
    """
    if not inventory.backup.pitr:
        return None
    archive = WalArchive(bucket, bucket.project_id)
    return [_cluster(archive.history(name), until) for name in archive.clusters()]


def _cluster(history: History, until: datetime) -> dict[str, Any]:
    replay = history.replay if history.replay and history.replay.finished <= until else None
    return {
        "cluster": history.cluster,
        "windows": [
            {"start": window.start.isoformat(), "end": min(window.end, until).isoformat()}
            for window in history.windows()
            if window.start <= until
        ],
        "base_backups": [
            {
                "base": base.stamp,
                "bytes": base.stored,
                "parent": base.parent or None,
                "server_major": base.major,
                "flaw": base.flaw,
            }
            for base in history.bases
            if base.finished <= until
        ],
        "replayed": replay
        and {
            "ok": replay.ok,
            "finished": replay.finished.isoformat(),
            "seconds": replay.seconds,
            "until": replay.until,
            "reason": replay.reason,
        },
    }


def _encryption(inventory: Inventory, settings: Settings) -> dict[str, Any]:
    return {
        "asked_for": inventory.backup.encryption or None,
        "bucket_default": _plain(settings.encryption),
        "kms_key_id": inventory.backup.kms_key_id or None,
        "recipients": [
            {"key": age_encryption.key_id(one), "recipient": one}
            for one in inventory.backup.recipients
        ],
        "manifest": inventory.backup.manifest,
    }


def _deletion(inventory: Inventory, settings: Settings) -> dict[str, Any]:
    """Who may delete, as the printed policies have it. Whether they are the ones in force, the
    account's administrator knows: a bucket does not say.
    """
    backup = inventory.backup
    printed = policies.policies(backup.bucket, backup.region, backup.kms_key_id, backup.prefix)
    return {
        "printed_policies_allow": sorted(
            party
            for party, policy in printed.items()
            if any("s3:DeleteObject" in one["Action"] for one in policy["Statement"])
        ),
        "versioning": _plain(settings.versioning),
        "object_lock": settings.locked,
        "lifecycle_rules": _plain(settings.rules),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Unsupported):
        return "not known to this store"
    return json.loads(json.dumps(value, default=str)) if value else None


def _entries(
    audit: Iterable[Mapping[str, Any]], since: datetime, until: datetime
) -> Iterable[Mapping[str, Any]]:
    begin, end = f"{since:%Y-%m-%dT%H:%M:%SZ}", f"{until:%Y-%m-%dT%H:%M:%SZ}"
    return (entry for entry in audit if begin <= str(entry.get("time", "")) <= end)
