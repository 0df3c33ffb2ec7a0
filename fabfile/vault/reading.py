"""The secrets: an Ansible Vault file -> values whose repr is redacted.

The file is a vault as a whole (`ansible-vault create`), or plain YAML with
`!vault` values in it (`ansible-vault encrypt_string`), or both at once.
"""

from __future__ import annotations

import difflib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from fabfile.base import yaml_text
from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Vault
from fabfile.vault.encryption import decrypt, encrypt, is_vault, label_of
from fabfile.vault.password import Ask, read_password

__all__ = ["Ask", "Secret", "Secrets", "decrypt", "encrypt", "load"]

POSTGRES_PASSWORD = "vault_postgres_password"  # noqa: S105 - the name of an entry
AWS_ACCESS_KEY_ID = "vault_aws_access_key_id"
AWS_SECRET_ACCESS_KEY = "vault_aws_secret_access_key"  # noqa: S105
NAME_KEY = "vault_name_key"
REGISTRY_USER = "vault_registry_user"
REGISTRY_PASSWORD = "vault_registry_password"  # noqa: S105
PING_DATABASE = "vault_ping_database"
PING_FILES = "vault_ping_files"
PING_DRILL = "vault_ping_drill"
NOTIFY_URLS = "vault_notify_urls"
NOCODB_ENVIRONMENT = "vault_nocodb_environment"
BACKUP_IDENTITY = "vault_backup_identity"
"""The team's identity, with which encrypted backups are read."""
FORMER_IDENTITY = "vault_backup_identity_former"
"""The one before it, for sets that were made then."""
DRILL_IDENTITY = "vault_drill_identity"
"""The identity that lies on the db hosts, for drills by cron."""
PROXY_CERTIFICATE = "vault_proxy_certificate"
"""The proxy's certificate with its chain, PEM in base64; below, its key."""
PROXY_KEY = "vault_proxy_key"
KNOWN = (
    POSTGRES_PASSWORD,
    AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY,
    NAME_KEY,
    REGISTRY_USER,
    REGISTRY_PASSWORD,
    PING_DATABASE,
    PING_FILES,
    PING_DRILL,
    NOTIFY_URLS,
    NOCODB_ENVIRONMENT,
    BACKUP_IDENTITY,
    FORMER_IDENTITY,
    DRILL_IDENTITY,
    PROXY_CERTIFICATE,
    PROXY_KEY,
)


@dataclass(frozen=True)
class _Inline:
    """A `!vault` value, still encrypted."""

    text: str


@dataclass(frozen=True)
class _Unusable:
    """A value that is no secret; says why. Never holds the value."""

    problem: str
    hint: str = "correct it with: inv secrets.edit"


@dataclass
class Secrets:
    """The entries of a vault. Other people's entries may be there too and are left alone."""

    file: Path
    password: Secret
    """The vault's own password."""
    _entries: Mapping[str, Secret | _Inline | _Unusable] = field(repr=False)

    def names(self) -> tuple[str, ...]:
        """Every entry's name, in the order of the file."""
        return tuple(self._entries)

    def get(self, name: str) -> Secret | None:
        """The entry of this name, None if there is none.

        ConfigError if it is there and unusable: encrypted with another
        password, not a text, empty, or (for the entries Swarmkeep itself uses)
        of more than one line.
        """
        entry = self._entries.get(name)
        if isinstance(entry, _Inline):
            entry = _decrypt_inline(entry, self.password, f"{self.file}: {name}")
        if isinstance(entry, Secret):
            entry = _check_text(name, entry)
        if isinstance(entry, _Unusable):
            raise ConfigError(f"{self.file}: {name} {entry.problem}", hint=entry.hint)
        return entry

    def require(self, name: str) -> Secret:
        """The entry of this name. ConfigError naming it and the file if it is missing."""
        secret = self.get(name)
        if secret is not None:
            return secret
        close = difflib.get_close_matches(name, self.names(), n=1)
        raise ConfigError(
            f"{self.file}: the entry {name} is missing",
            hint="add it with: inv secrets.edit" + (f" (there is {close[0]!r})" if close else ""),
        )

    def with_entries(self, entries: Mapping[str, Secret]) -> Secrets:
        """The same with more entries, or others in the place of those of the same name."""
        return replace(self, _entries={**self._entries, **entries})

    def check(self) -> None:
        """ConfigError if an entry that Swarmkeep itself uses is there and unusable."""
        for name in KNOWN:
            self.get(name)

    def name_key(self) -> bytes:
        """The key for the hashes in names that everybody may see.

        The entry vault_name_key if there is one (then the vault's password can
        change and the names stay), else derived from the vault's password.
        """
        own = self.get(NAME_KEY)
        if own is not None:
            return own.reveal().encode()
        password = self.password.reveal().encode("utf-8", "surrogateescape")
        return hmac.digest(password, b"swarmkeep secret names", "sha256")


def load(vault: Vault, ask: Ask | None = None) -> Secrets:
    """Read and decrypt the vault file.

    The password comes from the password file of hosts.yaml, else from
    $SWARMKEEP_VAULT_PASSWORD, else from the file $SWARMKEEP_VAULT_PASSWORD_FILE
    names, else from `ask` (given the question; only called on a terminal).

    Raises ConfigError for everything that is wrong with file or password, and
    for Swarmkeep's own entries that are unusable.
    """
    text = read_file(vault.file)
    whole = is_vault(text)
    label = label_of(text, name=str(vault.file)) if whole else None
    if not whole and "!vault" not in text:
        raise ConfigError(
            f"{vault.file}: is not encrypted: neither a vault nor one '!vault' value in it",
            hint=f"encrypt it with: ansible-vault encrypt {vault.file}",
        )
    password = read_password(vault, ask, label=label)
    clear = text
    if whole:
        name = str(vault.file)
        clear = as_text(decrypt(text, password.reveal(), name=name), name)
    entries = parse(clear, vault.file, clear_allowed=whole)
    secrets = Secrets(vault.file, password, entries)
    secrets.check()
    return secrets


def parse(
    clear: str, file: Path, *, clear_allowed: bool = True
) -> dict[str, Secret | _Inline | _Unusable]:
    """Given a vault's clear text, return its entries.

    ConfigError, which never quotes the text, if it is not a YAML mapping.
    Without `clear_allowed`, values that are not encrypted become unusable.
    """
    content = "decrypted content" if clear_allowed else "content"
    try:
        data = yaml_text.parse(clear, _Loader)
    except yaml_text.YamlTextError as error:
        # The parser's own words quote the text, and the text is secret.
        raise ConfigError(
            f"{file}: the {content} {error}",
            hint="correct it with: inv secrets.edit (put the values in quotes: name: 'value')",
        ) from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else "is not a mapping"
        raise ConfigError(
            f"{file}: the {content} {found}: want lines of the form name: 'value'",
            hint="correct it with: inv secrets.edit",
        )
    return {
        key: _classify(value, clear_allowed) for key, value in data.items() if isinstance(key, str)
    }


def _classify(value: object, clear_allowed: bool) -> Secret | _Inline | _Unusable:
    if isinstance(value, _Inline):
        return value
    if not clear_allowed:
        return _Unusable(
            "is not encrypted, and the file is not either",
            "encrypt the whole file with: ansible-vault encrypt FILE",
        )
    if isinstance(value, str):
        return Secret(value)
    if value is None:
        return _Unusable("has no value")
    if isinstance(value, dict | list):
        return _Unusable("is not a text but a mapping or a list")
    return _Unusable("is not a text for YAML (a number, a date, true/false): put it in quotes")


def _check_text(name: str, secret: Secret) -> Secret | _Unusable:
    text = secret.reveal()
    if not text:
        return _Unusable("is empty")
    if "\0" in text:
        return _Unusable("holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        return _Unusable("holds a character that is no text (half a surrogate pair)")
    if name in KNOWN and ("\n" in text or "\r" in text):
        # It would reach files that are read line by line.
        return _Unusable(
            "has more than one line (a line break at its end?)",
            f"set it again with: inv secrets.set {name}",
        )
    return secret


def _decrypt_inline(entry: _Inline, password: Secret, name: str) -> Secret:
    return Secret(as_text(decrypt(entry.text, password.reveal(), name=name), name))


class _Loader(yaml_text.Loader):
    """YAML with Ansible's tags for encrypted and for untemplated values."""


def _construct_inline(loader: _Loader, node: yaml.Node) -> _Inline:
    return _Inline(_scalar(loader, node))


def _scalar(loader: _Loader, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "want a text", node.start_mark)
    return str(loader.construct_scalar(node))


_Loader.add_constructor("!vault", _construct_inline)
_Loader.add_constructor("!vault-encrypted", _construct_inline)
_Loader.add_constructor("!unsafe", _scalar)


def read_file(path: Path) -> str:
    """The vault file's text. ConfigError if it is missing or cannot be read."""
    try:
        return as_text(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such vault file", hint="make one with: inv secrets.init"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", hint="check its permissions"
        ) from None


def as_text(content: bytes, name: str) -> str:
    """Given bytes, return them as text; ConfigError naming `name` if they are not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is not UTF-8 text") from None
