"""Secrets and configs under names that change with their content: Docker's cannot be changed."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass

from fabfile.deploy import local_files
from fabfile.swarm.docker_commands import SecretVersion

_HASH_DIGITS = 16


@dataclass(frozen=True)
class SecretContent:
    """A version of a secret or config with what is in it, kept out of every repr."""

    version: SecretVersion
    content: bytes
    labels: tuple[tuple[str, str], ...] = ()
    template_driver: str = ""

    def __repr__(self) -> str:
        return f"SecretContent({self.version.name})"


def versioned(key: bytes, stack: str, base: str, content: bytes) -> SecretContent:
    """Given a secret's content, return it under a name that changes with the content.

    The hash is keyed, since names are visible to everybody with access to Docker.
    """
    digest = hmac.new(key, f"{stack}/{base}\0".encode() + content, hashlib.sha256).hexdigest()
    name = f"{stack}_{base}"
    return SecretContent(SecretVersion(f"{name}_{digest[:_HASH_DIGITS]}", name), content)


def versioned_file(key: bytes, stack: str, file: local_files.LocalFile) -> SecretContent:
    """A file of a compose file under a name that changes with all that it is made of."""
    kind = file.kind.removesuffix("s")
    made = json.dumps([kind, file.labels, file.template_driver]).encode()
    digest = hmac.new(
        key, f"{stack}/{file.base}\0".encode() + made + b"\0" + file.content, "sha256"
    )
    base = _short(file.base)
    version = SecretVersion(f"{base}_{digest.hexdigest()[:_HASH_DIGITS]}", base, kind, stack)
    return SecretContent(version, file.content, file.labels, file.template_driver)


def _short(base: str) -> str:
    """Names of secrets and configs have at most 64 characters."""
    most = 64 - 1 - _HASH_DIGITS
    if len(base) <= most:
        return base
    return f"{base[: most - 11].rstrip('._-')}-{hashlib.sha256(base.encode()).hexdigest()[:10]}"
