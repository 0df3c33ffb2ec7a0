"""inv backup.keys, rekey: whom backups are encrypted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.terminal.command import (
    ask_secret,
    command,
    is_dry,
    open_bucket,
    open_vault,
    read_inventory,
    show_error,
)
from fabfile.terminal.identity_dialog import IDENTITY_HELP, spoken_keys

if TYPE_CHECKING:
    from fabfile.backup.bucket import Bucket
    from fabfile.backup.rekey import Files
    from fabfile.backup.sets import BackupSet
    from fabfile.config.inventory import Inventory
    from fabfile.s3.reencryption import Reencryption
    from fabfile.vault.editing import Document
    from fabfile.wal.rekey import WalToRekey


@command(
    help={
        "new": "make an identity in the vault, and a second one, shown once, for paper",
        "replace": "with --new: the vault's identity becomes the former one, and a new one is made",
        "drill": "make the identity that lies on the db hosts, for drills by cron",
        "write": "add the new keys to backup.recipients in the hosts file",
    }
)
def keys(
    ctx: Context,
    hosts: str | None = None,
    new: bool = False,
    replace: bool = False,
    drill: bool = False,
    write: bool = False,
) -> None:
    """Show whom backups are encrypted for; --new makes keys."""
    from fabfile.terminal.upgrade_dialog import hosts_file

    if replace and not new:
        raise ConfigError("--replace: goes with --new")
    inventory = read_inventory(hosts)
    if not (new or drill):
        print(_shown(inventory))
        return
    made, former = _make(inventory, new=new, replace=replace, drill=drill, dry=is_dry(ctx))
    if is_dry(ctx):
        return
    recipients = [*(one for one in inventory.backup.recipients if one not in former), *made]
    print("")
    hosts_file(
        inventory,
        {("backup", "recipients"): f"[{', '.join(recipients)}]"},
        write=write,
        until_then="until then backups are encrypted as before, or not at all",
    )
    print("then: inv backup.install backup.run; how to prove the paper key: docs/encryption.md")


def _shown(inventory: Inventory) -> str:
    from fabfile.base.age_encryption import key_id
    from fabfile.terminal.tables import plain, table
    from fabfile.vault.backup_identity import of_entry
    from fabfile.vault.reading import BACKUP_IDENTITY, DRILL_IDENTITY, FORMER_IDENTITY

    secrets = open_vault(inventory)
    owners = {
        public: name
        for name in (BACKUP_IDENTITY, FORMER_IDENTITY, DRILL_IDENTITY)
        if secrets and (identity := of_entry(secrets, name))
        for public in identity.publics
    }
    recipients = inventory.backup.recipients
    if not recipients:
        return "backups are not encrypted: backup.recipients is empty; next: inv backup.keys --new"
    unknown = "not in the vault: on paper, or somebody's own" if secrets else "the vault is closed"
    rows = [[key_id(one), plain(one), owners.get(one, unknown)] for one in recipients]
    lines = [table(["key", "recipient", "its identity"], rows)]
    if len(recipients) == 1:
        lines.append(f"warning: {ONE_RECIPIENT}")
    return "\n".join(lines)


ONE_RECIPIENT = (
    "backups are encrypted for one key only: if its identity is lost, so is every backup; "
    "add a second one, kept elsewhere: inv backup.keys --new"
)


def _make(
    inventory: Inventory, *, new: bool, replace: bool, drill: bool, dry: bool
) -> tuple[list[str], list[str]]:
    """Make the identities that are asked for, and return the recipients of those, and of the one
    that is the former one now.
    """
    from fabfile.base import age_encryption
    from fabfile.vault import editing
    from fabfile.vault.reading import BACKUP_IDENTITY, DRILL_IDENTITY, FORMER_IDENTITY

    document = editing.open_document(inventory.vault, ask_secret)
    entries = document.entries(document.clear.reveal())
    made: list[str] = []
    former: list[str] = []
    values: dict[str, str] = {}
    paper = ""
    if new:
        there = entries.get(BACKUP_IDENTITY)
        if there and replace:
            if entries.get(FORMER_IDENTITY):
                raise ConfigError(
                    f"{document.path}: has a {FORMER_IDENTITY} already, which older sets may need",
                    hint="inv backup.rekey --yes, then remove it: inv secrets.edit",
                )
            values[FORMER_IDENTITY] = there.reveal()
            former.append(age_encryption.public_of(there.reveal()))
        elif there:
            raise ConfigError(
                f"{document.path}: has a {BACKUP_IDENTITY} already",
                hint="inv backup.keys shows it; --new --replace makes another one",
            )
        values[BACKUP_IDENTITY], public = age_encryption.generate()
        paper, second = age_encryption.generate()
        made += [public, second]
    if drill:
        if entries.get(DRILL_IDENTITY):
            raise ConfigError(f"{document.path}: has a {DRILL_IDENTITY} already")
        values[DRILL_IDENTITY], public = age_encryption.generate()
        made.append(public)
    if dry:
        print(f"would set {', '.join(values)} in {document.path}")
        return [], []
    _save(document, values)
    if paper:
        print(
            f"a second identity, key {age_encryption.key_id(made[1])}, for paper. It is shown this "
            "once and kept nowhere:\n"
        )
        print(f"  {paper}\n")
        print("write it down, and keep it where a fire here does not reach")
    return made, former


def _save(document: Document, values: dict[str, str]) -> None:
    from dataclasses import replace

    from fabfile.base.secret import Secret
    from fabfile.vault import editing

    changed = document
    for name, value in values.items():
        changed = replace(changed, clear=Secret(editing.set_entry(changed, name, value)))
    document.save(changed.clear.reveal())
    print(f"{document.path}: set {', '.join(values)}")


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
    private = bucket.identity.private.reveal() if bucket.identity else ""
    plan = _plan(inventory, bucket, Reencryption(bucket, inventory.backup.recipients, private))
    print(f"s3://{bucket.name}/: for {spoken_keys(plan.work.key_ids)}: {plan}", flush=True)
    if not plan.count:
        return
    if not yes or is_dry(ctx):
        print("nothing was changed: inv backup.rekey --yes does it")
        return
    errors = _carry_out(inventory, plan)
    for error in errors[:-1]:
        show_error(error)
    if errors:
        raise errors[-1]
    print("done: all that is kept is encrypted for them; old versions in the bucket, if it keeps")
    print("any, are as they were until a lifecycle rule removes them (inv bucket.check)")


@dataclass(frozen=True)
class Plan:
    """What is not encrypted for today's recipients."""

    work: Reencryption
    sets: Sequence[tuple[str, BackupSet]]
    files: Files | None
    wal: Sequence[WalToRekey]

    @property
    def count(self) -> int:
        """How many sets and objects."""
        files = self.files.count if self.files else 0
        return len(self.sets) + files + sum(one.count for one in self.wal)

    def __str__(self) -> str:
        files = self.files.count if self.files else 0
        bases = sum(len(one.bases) for one in self.wal)
        wal = sum(one.count for one in self.wal) - bases
        found = (
            f"{len(self.sets)} sets",
            f"{files} attachments",
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
    sets = []
    for name in inventory.postgres.databases:
        listed = bucket.with_proofs(name, bucket.latest(name, now, 0).backups)
        ours, _ = divided(listed, bucket.project_id)
        sets += [(name, s) for s in ours if of_backups.is_due(s, work.key_ids, sealed=sealed)]
    files = of_backups.find_files(work, inventory.app.stack, backup.project)
    archive = WalArchive(bucket, bucket.project_id)
    histories = [archive.history(one, everything=True) for one in archive.clusters()]
    # Whose the segments are, only base backups tell.
    wal = [of_wal.find(one, work) for one in histories if one.bases and not one.shared]
    return Plan(work, sets, files, wal)


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
    try:
        if plan.files:
            stack, project = inventory.app.stack, inventory.backup.project
            of_backups.rekey_files(plan.work, stack, project, plan.files)
    except SwarmkeepError as error:
        errors.append(error)
    for cluster in plan.wal:
        try:
            of_wal.rekey(cluster, plan.work)
        except SwarmkeepError as error:
            errors.append(error)
    return errors
