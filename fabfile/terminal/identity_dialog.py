"""Which identity reads encrypted backups: of the flag --identity, or of the vault."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import known_identity, read_vault

if TYPE_CHECKING:
    from fabfile.config.inventory import Inventory
    from fabfile.vault.backup_identity import Identity
    from fabfile.vault.reading import Secrets

IDENTITY_HELP = "file with the identity that reads encrypted backups, - to type it (default: vault)"


def identity_for(
    inventory: Inventory,
    keys: Collection[str],
    flag: str,
    what: str,
    *,
    encrypted: bool = False,
) -> Identity | None:
    """The identity that reads what is encrypted for one of these keys (their ids); None where
    nothing is. `encrypted`: something is, for keys that may not be known.

    Raises ConfigError if none is at hand, or another one: before anything is changed.
    """
    if not keys and not encrypted:
        return None
    identity = known_identity(inventory, flag) if flag else _of_vault(read_vault(inventory))
    needed = f"it is encrypted for {spoken_keys(keys)}" if keys else "it is encrypted"
    hint = (
        "give one of them: inv secrets.set vault_backup_identity, or --identity FILE "
        "(--identity - to type the one on paper)"
    )
    if identity is None:
        raise ConfigError(f"{what}: {needed}, and no identity is at hand", hint=hint)
    if keys and not identity.reads(keys):
        where = flag or f"{inventory.vault.file}"
        raise ConfigError(
            f"{what}: {needed}; the identity at hand ({where}) is of "
            f"{spoken_keys(identity.key_ids)}",
            hint=hint,
        )
    return identity.fitting(keys)


def spoken_keys(keys: Collection[str]) -> str:
    """Ids of keys in words."""
    return f"{'key' if len(keys) == 1 else 'keys'} {', '.join(sorted(keys))}"


def _of_vault(secrets: Secrets) -> Identity | None:
    from fabfile.vault.backup_identity import of_vault

    return of_vault(secrets)
