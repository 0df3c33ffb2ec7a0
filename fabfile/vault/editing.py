"""Changing a vault: the clear text in a private place, the file replaced in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import yaml

from fabfile.base.errors import ConfigError, SwarmkeepError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Vault
from fabfile.vault import reading as vaults
from fabfile.vault.encryption import decrypt, encrypt, is_vault, label_of
from fabfile.vault.password import Ask, read_password

_MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs on Linux: what is there never reaches a disk
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Document:
    """A decrypted vault file and what is needed to write it back as it was."""

    path: Path
    encrypted: str
    clear: Secret
    password: Secret
    label: str | None

    def entries(self, clear: str) -> vaults.Secrets:
        """Given a clear text for this vault, return its entries; ConfigError if it is no good."""
        found = vaults.Secrets(self.path, self.password, vaults.parse(clear, self.path))
        found.check()
        return found

    def difference(self, clear: str) -> str:
        """Given a changed, good clear text, return the names that differ, in words."""
        after = vaults.parse(clear, self.path)
        try:
            before = vaults.parse(self.clear.reveal(), self.path)
        except ConfigError:  # that may be why it was changed
            before = {}
        kinds = {
            "added": [name for name in after if name not in before],
            "changed": [name for name in after if name in before and after[name] != before[name]],
            "removed": [name for name in before if name not in after],
        }
        parts = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
        return "; ".join(parts) or "no entry differs"

    def save(self, clear: str) -> None:
        """Encrypt the clear text and replace the file; header form, label, mode and owner stay.

        ConfigError if the file is no longer the one that was read.
        """
        target = self.path.resolve()  # a symbolic link stays one
        if vaults.read_file(target) != self.encrypted:
            raise ConfigError(
                f"{self.path}: was changed by somebody else in the meantime; nothing was written",
                hint="make your change again",
            )
        before = target.stat()
        text = encrypt(clear.encode(), self.password.reveal(), self.label)
        write_file(target, text, mode=before.st_mode & 0o7777, owner=(before.st_uid, before.st_gid))


def open_document(vault: Vault, ask: Ask | None = None) -> Document:
    """Read and decrypt a vault file to change it. Its content need not be valid (it may be why).

    ConfigError as for `vault.load`, and for a file with inline `!vault` values:
    putting those back where they were is the work of an editor.
    """
    text = vaults.read_file(vault.file)
    if not is_vault(text):
        raise ConfigError(
            f"{vault.file}: is not encrypted as a whole, so it cannot be changed here",
            hint=f"encrypt it ('ansible-vault encrypt {vault.file}'; '!vault' values in it stay "
            "valid), or replace a value with what 'ansible-vault encrypt_string' prints",
        )
    label = label_of(text, name=str(vault.file))
    password = read_password(vault, ask, label=label)
    name = str(vault.file)
    clear = vaults.as_text(decrypt(text, password.reveal(), name=name), name)
    return Document(vault.file, text, Secret(clear), password, label)


def edit(document: Document, again: Callable[[ConfigError], bool]) -> str:
    """Let a person edit the clear text, and return it once it is valid.

    `again` is given what is wrong and says whether to return to the editor;
    if not, that ConfigError is raised. The clear text is removed in every case.
    """
    with private_file(document.clear.reveal()) as path:
        while True:
            _run_editor(path)
            try:
                edited = _read_back(path, document.path)
                document.entries(edited)
            except ConfigError as error:
                if not again(error):
                    raise
            else:
                return edited


def set_entry(document: Document, name: str, value: str) -> str:
    """Return the document's clear text with one entry set; comments and order stay.

    ConfigError if the value is no good, or if the text has a form (aliases, one
    long line of braces) in which this cannot be done safely.
    """
    clear = document.clear.reveal()
    expected = {**vaults.parse(clear, document.path), name: Secret(value)}
    changed = _replace_value(clear, name, _quote(value))
    try:
        good = vaults.parse(changed, document.path) == expected
    except ConfigError:
        good = False
    if not good:
        raise ConfigError(
            f"{document.path}: {name} cannot be set: the form of the text does not allow it",
            hint="set it by hand with: inv secrets.edit",
        )
    document.entries(changed).get(name)
    return changed


def create(vault: Vault, clear: str, password: Secret) -> None:
    """Write a new vault file, mode 0600. ConfigError if there is one already."""
    refuse_existing(vault.file, "inv secrets.edit changes it, inv secrets.view shows it")
    write_file(vault.file, encrypt(clear.encode(), password.reveal()), mode=0o600)


def create_password_file(path: Path) -> Secret:
    """Write a new random password to a new file, mode 0600. ConfigError if there is one already."""
    refuse_existing(path, "inv secrets.init without --generate uses it")
    password = secrets.token_urlsafe(32)
    write_file(path, password + "\n", mode=0o600)
    return Secret(password)


def refuse_existing(path: Path, hint: str) -> None:
    """ConfigError if there is anything at the path, even a link to nowhere."""
    if os.path.lexists(path):
        raise ConfigError(f"{path}: exists already; nothing was changed", hint=hint)


def write_file(path: Path, text: str, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Put a text in place in one step: a reader sees the old file or the new one, whole."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode())
                if owner and owner != (os.getuid(), os.getgid()):
                    with contextlib.suppress(PermissionError):  # only root gives files away
                        os.fchown(file.fileno(), *owner)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SwarmkeepError(f"{path}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def private_file(clear: str) -> Iterator[Path]:
    """A file only we can read, in memory where there is a tmpfs, with its folder removed after.

    The folder takes an editor's backup and swap files along. A SIGTERM or SIGHUP
    (the terminal is closed) counts as Ctrl-C, so that it is removed then too.
    """
    memory = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    with _on_signals(_ENDING, signal.default_int_handler):
        folder = Path(tempfile.mkdtemp(prefix="swarmkeep-", dir=memory))
        try:
            path = folder / "vault.yml"
            path.touch(mode=0o600)
            path.write_text(clear, encoding="utf-8", newline="")
            yield path
        finally:
            # Not to be interrupted half-way by a second Ctrl-C.
            with _on_signals(_ENDING, lambda *_: None):
                shutil.rmtree(folder)


def _read_back(path: Path, name: Path) -> str:
    try:
        return vaults.as_text(path.read_bytes(), f"{name}: the edited text")
    except FileNotFoundError:
        raise ConfigError(f"{name}: the edited text is gone; the vault is unchanged") from None


def _run_editor(path: Path) -> None:
    command = _editor()
    try:
        # Ctrl-C belongs to the editor. A function, since an ignored signal would be inherited.
        with _on_signals((signal.SIGINT,), lambda *_: None):
            code = subprocess.run([*command, str(path)], check=False).returncode
    except OSError as error:
        raise ConfigError(
            f"the editor {command[0]!r} does not run: {error.strerror}",
            hint="name another one in $VISUAL or $EDITOR",
        ) from None
    if code:
        raise SwarmkeepError(
            f"the editor {command[0]!r} ended with exit code {code}; the vault is unchanged"
        )


def _editor() -> list[str]:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not named and not (sys.stdin and sys.stdin.isatty()):
        raise ConfigError(
            "there is no terminal to edit on",
            hint="set one entry from a script with: inv secrets.set NAME < FILE",
        )
    try:
        command = shlex.split(named or "vi")
    except ValueError as error:
        raise ConfigError(f"$VISUAL or $EDITOR: {named!r}: {error}") from None
    return command or ["vi"]


@contextlib.contextmanager
def _on_signals(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _quote(value: str) -> str:
    """A text as a YAML scalar in double quotes, on one line."""
    # PyYAML loses U+0085 unless everything beyond ASCII is escaped.
    readable = value.isprintable()
    quoted = yaml.safe_dump(value, default_style='"', allow_unicode=readable, width=sys.maxsize)
    return quoted.strip()


def _replace_value(clear: str, name: str, scalar: str) -> str:
    """The YAML text with the top-level value of `name` replaced, or the entry added at the end."""
    root = yaml.compose(clear, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for key, node in pairs:
        if key.value == name:
            start, end = node.start_mark.index, node.end_mark.index
            space = " " if start == end else ""  # "name:" without a value
            newline = "\n" if clear[start:end].endswith("\n") else ""  # a block ends below itself
            return f"{clear[:start]}{space}{scalar}{newline}{clear[end:]}"
    separator = "" if not clear or clear.endswith("\n") else "\n"
    return f"{clear}{separator}{name}: {scalar}\n"
