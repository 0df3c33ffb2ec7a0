"""inv backup.keys: whom backups are encrypted for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import (
    ask_secret,
    command,
    is_dry,
    open_vault,
    read_inventory,
)

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.vault.editing import Document


@command(
    help={
        "new": "make an identity in the vault, and a second one, shown once, for paper",
        "paper": "write the second one into this new file instead of showing it",
        "replace": "with --new: the vault's identity becomes the former one, and a new one is made",
        "drill": "make the identity that lies on the db hosts, for drills by cron",
        "write": "add the new keys to backup.recipients in the hosts file",
    }
)
def keys(
    ctx: Context,
    hosts: str | None = None,
    new: bool = False,
    paper: str = "",
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
    if new and not paper and not sys.stdout.isatty() and not is_dry(ctx):
        raise ConfigError(
            "this would show a private key, and nobody is looking: stdout is no terminal",
            hint="--paper FILE writes it into a new file of yours",
        )
    made, former = _make(
        inventory, new=new, replace=replace, drill=drill, dry=is_dry(ctx), paper=paper
    )
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
    inventory: Inventory, *, new: bool, replace: bool, drill: bool, dry: bool, paper: str
) -> tuple[list[str], list[str]]:
    """Make the identities that are asked for, and return the recipients of those, and of the one
    that is the former one now.
    """
    from fabfile.base import age_encryption
    from fabfile.vault import editing
    from fabfile.vault.backup_identity import of_entry
    from fabfile.vault.reading import BACKUP_IDENTITY, DRILL_IDENTITY, FORMER_IDENTITY

    document = editing.open_document(inventory.vault, ask_secret)
    entries = document.entries(document.clear.reveal())
    made: list[str] = []
    former: list[str] = []
    values: dict[str, str] = {}
    second_one = ""
    file = Path(paper).expanduser() if paper else None
    if file and file.exists():
        raise ConfigError(f"--paper {paper}: is there already")
    if new:
        there = entries.get(BACKUP_IDENTITY)
        if there and replace:
            if entries.get(FORMER_IDENTITY):
                raise ConfigError(
                    f"{document.path}: has a {FORMER_IDENTITY} already, which older sets may need",
                    hint="inv backup.rekey --yes, then remove it: inv secrets.edit",
                )
            values[FORMER_IDENTITY] = there.reveal()
            identity = of_entry(entries, BACKUP_IDENTITY)
            former += identity.publics if identity else ()
        elif there:
            raise ConfigError(
                f"{document.path}: has a {BACKUP_IDENTITY} already",
                hint="inv backup.keys shows it; --new --replace makes another one",
            )
        values[BACKUP_IDENTITY], public = age_encryption.generate()
        second_one, second = age_encryption.generate()
        made += [public, second]
    if drill:
        if entries.get(DRILL_IDENTITY):
            raise ConfigError(f"{document.path}: has a {DRILL_IDENTITY} already")
        values[DRILL_IDENTITY], public = age_encryption.generate()
        made.append(public)
    if dry:
        print(f"would set {', '.join(values)} in {document.path}")
        return [], []
    if file and second_one:
        # First: what the vault names as recipient must not be lost.
        file.touch(0o600)
        file.write_text(f"{second_one}\n")
        print(
            f"{file}: the second identity, key {age_encryption.key_id(made[1])}; keep it elsewhere"
        )
    _save(document, values)
    if second_one and not file:
        print(
            f"a second identity, key {age_encryption.key_id(made[1])}, for paper. It is shown this "
            "once and kept nowhere:\n"
        )
        print(f"  {second_one}\n")
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
