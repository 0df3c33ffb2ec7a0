"""inv secrets.*: make, show and change the vault file."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from invoke.context import Context

from fabfile.base.errors import ConfigError
from fabfile.terminal.command import ask_secret, command, is_dry, read_inventory, show_error

if TYPE_CHECKING:
    from pathlib import Path

    from fabfile.config.inventory import Vault
    from fabfile.vault.editing import Document
    from fabfile.vault.reading import Secrets


@command(help={"generate": "make a random vault password too, in a new password file"})
def init(ctx: Context, generate: bool = False, hosts: str | None = None) -> None:
    """Make a new vault with random secrets (never overwrites)."""
    import secrets

    from fabfile.vault import editing
    from fabfile.vault import password as vault_password
    from fabfile.vault import reading as vaults

    vault = read_inventory(hosts).vault
    editing.refuse_existing(vault.file, "inv secrets.edit changes it, secrets.view shows it")
    new_file = _new_password_file(vault) if generate else None
    names = (vaults.POSTGRES_PASSWORD, vaults.NAME_KEY)
    if is_dry(ctx):
        print(f"would write {vault.file} with {' and '.join(names)}")
        return
    if new_file:
        password = editing.create_password_file(new_file)
    else:
        password = vault_password.read_password(vault, _ask_twice)
    lines = [f'{name}: "{secrets.token_urlsafe(32)}"\n' for name in names]
    try:
        editing.create(vault, "".join(lines), password)
    except BaseException:
        if new_file:
            new_file.unlink()  # made a moment ago, and good for nothing now
        raise
    print(f"wrote {vault.file} with {' and '.join(names)}")
    if new_file:
        print(f"wrote {new_file}: the vault's password. Keep a copy safe, keep it out of git.")
    print(
        "next: commit the vault file (it is encrypted), then: inv deploy "
        "(where NocoDB runs already: docs/adopt.md)"
    )


@command(
    help={
        "reveal": "show the values too, not only the names",
        "name": "only this entry; with --reveal its bare value, for scripts",
    }
)
def view(
    ctx: Context,  # noqa: ARG001 - Invoke passes it
    reveal: bool = False,
    name: str | None = None,
    hosts: str | None = None,
) -> None:
    """List the entries of the vault, --reveal for the values."""
    from fabfile.vault import reading as vaults

    found = vaults.load(read_inventory(hosts).vault, ask_secret)
    if name is not None:
        secret = found.require(name)
        print(secret.reveal() if reveal else name)
        return
    for entry in found.names():
        print(f"{entry}: {_shown(found, entry)}" if reveal else entry)


@command()
def edit(ctx: Context, hosts: str | None = None) -> None:
    """Edit the vault in $VISUAL, $EDITOR or vi."""
    from fabfile.vault import editing

    vault = read_inventory(hosts).vault
    if is_dry(ctx):
        print(f"would edit {vault.file}")
        return
    document = editing.open_document(vault, ask_secret)
    edited = editing.edit(document, _again)
    _save(document, edited)


@command(name="set", help={"name": "the entry, such as vault_aws_secret_access_key"})
def set_(ctx: Context, name: str, hosts: str | None = None) -> None:
    """Set one entry of the vault, its value read from stdin."""
    from fabfile.vault import editing

    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ConfigError(f"{name!r} is not a name for an entry: use letters, digits and _")
    vault = read_inventory(hosts).vault
    document = editing.open_document(vault, ask_secret)
    changed = editing.set_entry(document, name, _read_value(name))
    if is_dry(ctx):
        print(f"would set {name} in {vault.file}")
        return
    _save(document, changed)


def _save(document: Document, clear: str) -> None:
    """Write a changed text back and say what is different now, by name."""
    if clear == document.clear.reveal():
        print(f"{document.path}: unchanged")
        return
    document.save(clear)
    print(f"{document.path}: saved; {document.difference(clear)}")


def _new_password_file(vault: Vault) -> Path:
    """Where --generate puts the new password: where the next command will look for it."""
    import os

    from fabfile.vault import editing
    from fabfile.vault import password as vault_password

    path = vault.password_file
    if path is None:
        named = os.environ.get(vault_password.PASSWORD_FILE)
        if os.environ.get(vault_password.PASSWORD):
            raise ConfigError(
                f"${vault_password.PASSWORD} is set and would be used instead of a new password",
                hint="unset it, or leave --generate out",
            )
        if not named:
            raise ConfigError(
                "--generate needs to know where the vault's password goes",
                hint="name the file as vault.password_file in the hosts file, "
                f"or in ${vault_password.PASSWORD_FILE}",
            )
        path = vault_password.environment_path(named)
    editing.refuse_existing(path, "leave --generate out to use the password in it")
    return path


def _shown(found: Secrets, name: str) -> str:
    """An entry's value as a line for the screen."""
    try:
        text = found.require(name).reveal()
    except ConfigError as error:
        return f"({error.message})"
    return text if text.isprintable() else repr(text)


def _ask_twice(question: str) -> str:
    first = ask_secret(question)
    if ask_secret("Once more: ") != first:
        raise ConfigError("the two entries differ; nothing was written")
    return first


def _again(error: ConfigError) -> bool:
    """Show what is wrong with the edited text, and ask whether to return to the editor."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    show_error(error)
    try:
        answer = input("Back to the editor? (n drops your changes) [Y/n] ")
    except EOFError:
        return False
    return not answer.strip().lower().startswith("n")


def _read_value(name: str) -> str:
    """The new value: asked for on a terminal, else everything on stdin but one last line break."""
    if sys.stdin is None:
        raise ConfigError("there is no stdin to read the value from")
    if sys.stdin.isatty():
        return _ask_twice(f"Value of {name}: ")
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("the value on stdin is not UTF-8 text") from None
    return re.sub(r"\r?\n\Z", "", text)
