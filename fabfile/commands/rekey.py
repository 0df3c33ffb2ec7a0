"""inv backup.rekey: what is kept, encrypted for today's recipients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import CheckFailedError, ConfigError, SwarmkeepError
from fabfile.terminal.command import command, is_dry, open_bucket, read_inventory, show_error
from fabfile.terminal.identity_dialog import IDENTITY_HELP, spoken_keys

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.rekey import Files
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.s3.reencryption import Reencryption
    from fabfile.wal.rekey import WalToRekey


@command(
    help={
        "yes": "do it; without it nothing is changed",
        "identity": IDENTITY_HELP,
    }
)
def rekey(ctx: Context, hosts: str | None = None, yes: bool = False, identity: str = "") -> None:
    """Encrypt what is kept for today's recipients."""
    inventory = read_inventory(hosts)
    if not inventory.backup.recipients:
        raise ConfigError(
            "backup.recipients is empty: there is nobody to encrypt for", hint="inv backup.keys"
        )
    from fabfile.s3.reencryption import Reencryption

    bucket = open_bucket(inventory, identity)
    if not bucket.project_id:
        raise ConfigError(
            "which project this is, is not known: another one's backups could be taken for ours",
            hint="have the vault's password at hand, or set project_id in hosts.yaml",
        )
    private = bucket.identity.private.reveal() if bucket.identity else ""
    plan = _plan(inventory, bucket, Reencryption(bucket, inventory.backup.recipients, private))
    print(f"s3://{bucket.name}/: for {spoken_keys(plan.work.key_ids)}: {plan}", flush=True)
    for line in plan.skipped:
        print(f"  not touched: {line}", flush=True)
    errors: list[SwarmkeepError] = []
    if plan.count and (not yes or is_dry(ctx)):
        print("nothing was changed: inv backup.rekey --yes does it")
        return
    if plan.count:
        errors = _carry_out(inventory, plan)
    if plan.skipped:
        errors.append(
            CheckFailedError(
                f"{len(plan.skipped)} sets or objects could not be encrypted for today's keys",
                hint="they need the keys that they were made for, or none: see above; keep those "
                "keys until they are pruned",
            )
        )
    for error in errors[:-1]:
        show_error(error)
    if errors:
        raise errors[-1]
    if plan.count:
        print("done; old versions in the bucket, if it keeps any, are as they were until a")
        print("lifecycle rule removes them (inv bucket.check)")


@dataclass(frozen=True)
class Plan:
    """What is not encrypted for today's recipients."""

    work: Reencryption
    sets: Sequence[tuple[str, BackupSet]]
    files: Mapping[str, Files]
    """By what the bucket calls the folder."""
    wal: Sequence[WalToRekey]
    others: Sequence[str] = field(default=())
    """What cannot be encrypted anew, each with the reason."""

    @property
    def skipped(self) -> list[str]:
        """All of that."""
        return [*self.others, *(line for one in self.wal for line in one.skipped)]

    @property
    def count(self) -> int:
        """How many sets and objects."""
        files = sum(one.count for one in self.files.values())
        return len(self.sets) + files + sum(one.count for one in self.wal)

    def __str__(self) -> str:
        files = sum(one.count for one in self.files.values())
        bases = sum(len(one.bases) for one in self.wal)
        wal = sum(one.count for one in self.wal) - bases
        found = (
            f"{len(self.sets)} sets",
            f"{files} files",
            f"{bases} base backups",
            f"{wal} segments of WAL",
        )
        return f"{', '.join(found)} to encrypt" if self.count else "nothing to encrypt"


def _plan(inventory: Inventory, bucket: Bucket, work: Reencryption) -> Plan:
    from fabfile.backup import rekey as of_backups
    from fabfile.backup.sets import divided
    from fabfile.wal import rekey as of_wal
    from fabfile.wal.archive import WalArchive

    backup, now = inventory.backup, datetime.now(UTC)
    sealed = backup.manifest == "encrypted"
    sets: list[tuple[str, BackupSet]] = []
    skipped: list[str] = []
    for name in inventory.postgres.databases:
        holding = bucket.latest(name, now, 0)
        listed = bucket.with_proofs(name, [*holding.future, *holding.backups])
        ours, _ = divided(listed, bucket.project_id)
        sets += [(name, s) for s in ours if of_backups.is_due(s, work.key_ids, sealed=sealed)]
        skipped += [f"set {one.stamp} of {name}: {one.flaw}" for one in ours if one.flaw]
        skipped += [
            f"parts of {when:%Y-%m-%d %H:%M:%S} UTC of {name}, without a manifest"
            for when in holding.incomplete
        ]
    skipped += [
        f"{folder}: of a database that pg_db does not name"
        for folder in of_backups.other_databases(bucket, inventory.postgres.databases)
    ]
    # NocoDB's, even if they are no longer backed up, and those of the other apps' volumes.
    folders = dict.fromkeys((inventory.app.stack, *inventory.files_folders))
    for folder in folders:
        for entry in inventory.with_role("app"):
            state = bucket.files_state(folder, entry.node)
            if isinstance(state, str):
                raise ConfigError(f"files: {state}", hint="nothing was changed; inv backup.verify")
    files = {folder: of_backups.find_files(work, folder, backup.project) for folder in folders}
    archive = WalArchive(bucket, bucket.project_id)
    histories = [archive.history(one, everything=True) for one in archive.clusters()]
    # Whose the segments are, only base backups tell.
    wal = [of_wal.find(one, work) for one in histories if one.bases and not one.shared]
    skipped += [
        f"{one.place}: {'another project has base backups there, too' if one.shared else 'no base'}"
        for one in histories
        if one.shared or not one.bases
    ]
    return Plan(work, sets, files, wal, skipped)


def _carry_out(inventory: Inventory, plan: Plan) -> list[SwarmkeepError]:
    """Do it, the sets first; what fails keeps nothing else from being done."""
    from fabfile.backup import rekey as of_backups
    from fabfile.wal import rekey as of_wal

    errors: list[SwarmkeepError] = []
    sealed = inventory.backup.manifest == "encrypted"
    for name, one in plan.sets:
        try:
            of_backups.rekey_set(one, name, plan.work, sealed=sealed)
            print(f"set {one.stamp} of {name}: encrypted", flush=True)
        except SwarmkeepError as error:
            errors.append(error)
    for folder, found in plan.files.items():
        try:
            of_backups.rekey_files(plan.work, folder, inventory.backup.project, found)
        except SwarmkeepError as error:
            errors.append(error)
    for cluster in plan.wal:
        try:
            of_wal.rekey(cluster, plan.work)
        except SwarmkeepError as error:
            errors.append(error)
    return errors
