"""The vault while its database password changes: it holds both passwords from before the
database has the new one until after the app runs with it.

    vault_postgres_password   beside it                         the database accepts
    the old one                                                 the old one
    the old one               vault_postgres_password_next      the old; for a moment the new
    the new one               vault_postgres_password_previous  the new; for a moment the old
    the new one                                                 the new one
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace

import yaml

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Vault
from fabfile.vault import reading as vaults
from fabfile.vault.editing import Document, open_document, set_entry
from fabfile.vault.password import Ask
from fabfile.vault.reading import POSTGRES_PASSWORD, Secrets

_PASSWORD_BYTES = 32


class RotatingVault:
    """A vault file and the two passwords of one of its entries, `old` and `new`.

    ConfigError if the file cannot be read or changed, as for `vault_edit.open_document`.
    """

    def __init__(
        self, vault: Vault, ask: Ask | None = None, entry: str = POSTGRES_PASSWORD
    ) -> None:
        self._entry = entry
        self.next, self._previous = f"{entry}_next", f"{entry}_previous"
        self._document = open_document(vault, ask)
        entries = self._entries()
        current = entries.require(entry)
        coming, previous = entries.get(self.next), entries.get(self._previous)
        self.file = vault.file
        self.interrupted = bool(coming or previous)
        """Whether an earlier rotation has left both passwords in it."""
        self.old, self.new = current, coming or Secret(secrets.token_urlsafe(_PASSWORD_BYTES))
        if previous and not coming:
            self.old, self.new = previous, current
        # Now is the time to find out that the text has a form that cannot be changed.
        for now in (self._prepared(), self._switched(), self._finished()):
            self._with(now)

    def secrets(self, password: Secret) -> Secrets:
        """The entries of the vault, with this as the password."""
        clear = set_entry(self._document, self._entry, password.reveal())
        return self._document.entries(clear)

    def check_unchanged(self) -> None:
        """ConfigError if somebody has changed the file since it was read."""
        if vaults.read_file(self._document.path) != self._document.encrypted:
            raise ConfigError(
                f"{self.file}: was changed by somebody else in the meantime; nothing was changed",
                hint="run again",
            )

    def prepare(self) -> bool:
        """Keep the old password and the new one beside it; return whether that was news."""
        return self._write(self._prepared())

    def switch(self) -> bool:
        """Make the new password the one that counts, and keep the old one beside it."""
        return self._write(self._switched())

    def finish(self) -> None:
        """Keep the new password only."""
        self._write(self._finished())

    def forget(self) -> None:
        """Keep the old password only, as if nothing had happened."""
        self._write({self._entry: self.old})

    def _prepared(self) -> dict[str, Secret]:
        return {self._entry: self.old, self.next: self.new}

    def _switched(self) -> dict[str, Secret]:
        return {self._entry: self.new, self._previous: self.old}

    def _finished(self) -> dict[str, Secret]:
        return {self._entry: self.new}

    def _entries(self) -> Secrets:
        return self._document.entries(self._document.clear.reveal())

    def _with(self, now: dict[str, Secret]) -> Document:
        """The document with these passwords, not written yet."""
        entries, changed = self._entries(), self._document
        for name in (self._entry, self.next, self._previous):
            if name in now and entries.get(name) != now[name]:
                clear = set_entry(changed, name, now[name].reveal())
            elif name not in now and name in entries.names():
                clear = without_entry(changed, name)
            else:
                continue
            changed = replace(changed, clear=Secret(clear))
        return changed

    def _write(self, now: dict[str, Secret]) -> bool:
        changed = self._with(now)
        if changed.clear == self._document.clear:
            return False
        self._document.save(changed.clear.reveal())
        self._document = replace(changed, encrypted=vaults.read_file(self._document.path))
        # The rename too should be on disk before anything else happens; not every file system
        # can promise that.
        with contextlib.suppress(OSError):
            folder = os.open(self._document.path.resolve().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return True


def without_entry(document: Document, name: str) -> str:
    """Return the document's clear text without one entry; comments and order stay.

    ConfigError if the text has a form in which this cannot be done safely.
    """
    clear = document.clear.reveal()
    expected = vaults.parse(clear, document.path)
    del expected[name]
    root = yaml.compose(clear, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    changed = clear
    for key, node in pairs:
        if key.value == name:
            start, end = key.start_mark.index, node.end_mark.index
            if not clear[start:end].endswith("\n"):
                end = clear.find("\n", end) + 1 or len(clear)
            changed = clear[:start] + clear[end:]
    try:
        good = vaults.parse(changed, document.path) == expected
    except ConfigError:
        good = False
    if not good:
        raise ConfigError(
            f"{document.path}: {name} cannot be removed: the form of the text does not allow it",
            hint="remove it by hand with: inv secrets.edit",
        )
    return changed
