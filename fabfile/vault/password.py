"""Where the vault's password comes from: a file, a script, the environment, or a person."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fabfile.base.errors import ConfigError
from fabfile.base.secret import Secret
from fabfile.config.inventory import Vault
from fabfile.vault.encryption import MAGIC

PASSWORD = "SWARMKEEP_VAULT_PASSWORD"  # noqa: S105 - the name of a variable
PASSWORD_FILE = "SWARMKEEP_VAULT_PASSWORD_FILE"  # noqa: S105

Ask = Callable[[str], str]


def read_password(vault: Vault, ask: Ask | None = None, *, label: str | None = None) -> Secret:
    """The vault's password, from the places `load` names. ConfigError if there is none.

    `label` is the vault's label, handed to a password script that wants it.
    """
    if vault.password_file:
        return _password_from(vault.password_file, label)
    if text := os.environ.get(PASSWORD, "").strip():
        return Secret(text)
    if named := os.environ.get(PASSWORD_FILE):
        return _password_from(environment_path(named), label)
    if ask is None or not on_terminal():
        raise ConfigError(
            f"{vault.file}: there is no password for it",
            hint=f"name a file as vault.password_file in the hosts file, or set ${PASSWORD_FILE} "
            f"or ${PASSWORD} (on a terminal you are asked)",
        )
    text = ask(f"Vault password for {vault.file}: ").strip()
    if not text:
        raise ConfigError("the vault password is empty")
    return Secret(text)


def environment_path(text: str) -> Path:
    """Given the value of $SWARMKEEP_VAULT_PASSWORD_FILE, return the path."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"${PASSWORD_FILE}: {text!r}: {error}") from None


def on_terminal() -> bool:
    """Whether somebody is there to be asked (stdin may well be a pipe with a value in it)."""
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _password_from(path: Path, label: str | None) -> Secret:
    """What the file holds, or what it prints if it is executable: both as Ansible does it."""
    try:
        if path.stat().st_mode & 0o111 and not path.is_dir():
            content = _run_script(path, label).strip(b"\r\n")
        else:
            content = path.read_bytes().strip()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such vault password file",
            hint="create it (mode 0600), or make a new vault and its password with: "
            "inv secrets.init --generate",
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: vault password file: {error.strerror}") from None
    if not content:
        raise ConfigError(f"{path}: the vault password is empty")
    if content.startswith(MAGIC.encode()):
        raise ConfigError(f"{path}: the vault password file is itself an encrypted vault")
    return Secret(content.decode("utf-8", "surrogateescape"))


def _run_script(path: Path, label: str | None) -> bytes:
    # Ansible's convention: a script named *-client is told which vault it is for.
    command = [str(path)]
    if path.stem.endswith("-client"):
        command += ["--vault-id", label or "default"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise ConfigError(
            f"{path}: the vault password file is executable but does not run: {error.strerror}",
            hint=f"if it is no script: chmod 600 {path}",
        ) from None
    if done.returncode:
        raise ConfigError(
            f"{path}: the vault password script failed with exit code {done.returncode}"
        )
    return done.stdout
