"""The identity with which encrypted backups are read: from the vault, or from a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fabfile.base import age_encryption
from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.vault.reading import BACKUP_IDENTITY, FORMER_IDENTITY

if TYPE_CHECKING:
    from fabfile.vault.reading import Secrets

_AGE = "AGE-SECRET-KEY-"
_LONGEST = 64 * 1024


@dataclass(frozen=True)
class Identity:
    """A private key, or several (a former one, too), and the recipients that belong to them."""

    private: Secret = field(repr=False)
    """As an identity file has it: lines AGE-SECRET-KEY-1..., or an SSH key in OpenSSH's form."""
    publics: tuple[str, ...]
    pieces: tuple[Identity, ...] = field(default=(), repr=False)
    """Where there are several: each by itself."""

    @property
    def key_ids(self) -> tuple[str, ...]:
        """By what people and manifests call its keys."""
        return tuple(map(age_encryption.key_id, self.publics))

    def fitting(self, keys: Collection[str]) -> Identity:
        """The same for the program age, which takes an SSH key alone: the one that reads what is
        for `keys`, else the age identities.
        """
        if len(self.pieces) < 2:
            return self
        of_age = [one for one in self.pieces if one.private.reveal().startswith(_AGE)]
        if any(one.reads(keys) for one in of_age) or not keys:
            return joined(of_age) if of_age else self.pieces[0]
        return next((one for one in self.pieces if one.reads(keys)), self.pieces[0])

    def reads(self, keys: Collection[str]) -> bool:
        """Whether it reads what is encrypted for these keys (their ids)."""
        return not set(self.key_ids).isdisjoint(keys)


def of_text(text: str, name: str) -> Identity:
    """Given what an identity file has in it (of age-keygen, or an SSH private key without a
    passphrase), return the identity. ConfigError with `name`, never with the text.
    """
    keys = [line.strip() for line in text.splitlines() if line.strip().startswith(_AGE)]
    try:
        if keys:
            publics = tuple(map(age_encryption.public_of, keys))
            return Identity(Secret("\n".join(keys)), publics)
        return Identity(Secret(text), (_public_of_ssh_key(text),))
    except ValueError as error:
        raise ConfigError(
            f"{name}: {error}", hint="want a line AGE-SECRET-KEY-1... or an SSH key (ssh-ed25519)"
        ) from None


def _public_of_ssh_key(text: str) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    if "PRIVATE KEY-----" not in text:
        raise ValueError("has no identity in it")
    try:
        key = load_ssh_private_key(text.encode(), None)
    except TypeError:
        raise ValueError("has a passphrase: use a copy without it ('ssh-keygen -p')") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no SSH private key in OpenSSH's form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("is an SSH key of another kind: only ssh-ed25519 can be used")
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def of_file(path: Path) -> Identity:
    """The identity in a file. ConfigError if there is none, or if others may read it."""
    try:
        if path.stat().st_mode & 0o077 and path.is_file():
            raise ConfigError(f"{path}: others could read it", hint=f"chmod 600 {path}")
        with path.open("rb") as file:
            text = file.read(_LONGEST)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return of_text(text.decode("utf-8", "replace"), str(path))


def of_vault(secrets: Secrets) -> Identity | None:
    """The team's identity in the vault, with a former one; None without it. ConfigError if it is
    none.
    """
    found = [one for name in (BACKUP_IDENTITY, FORMER_IDENTITY) if (one := of_entry(secrets, name))]
    if not found:
        return None
    return found[0] if len(found) == 1 else joined(found)


def joined(found: Sequence[Identity]) -> Identity:
    """Several as one."""
    text = "\n".join(one.private.reveal() for one in found)
    publics = tuple(public for one in found for public in one.publics)
    return Identity(Secret(text), publics, tuple(found))


def of_entry(secrets: Secrets, entry: str) -> Identity | None:
    """The identity in an entry of the vault; None without it. ConfigError if it is none."""
    secret = secrets.get(entry)
    return of_text(secret.reveal(), f"{secrets.file}: {entry}") if secret else None
