"""Refusing every host key that known_hosts does not have."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import UnreachableError
from fabfile.ssh.ssh_config import Target

if TYPE_CHECKING:
    import paramiko

    from fabfile.ssh.known_hosts import KnownKeys


class HostKeyError(Exception):
    """The server's key is not one that known_hosts has for it."""

    def __init__(self, key: paramiko.PKey, known: KnownKeys) -> None:
        super().__init__(fingerprint(key))
        self.key = key
        self.known = known


class _AnyOf:
    """What paramiko takes for the one known key of a kind: equal to each that is known."""

    def __init__(self, kind: str, known: KnownKeys) -> None:
        self._kind = kind
        self._known = known

    def get_name(self) -> str:
        return self._kind

    def get_base64(self) -> str:
        return base64.b64encode(self._known.keys[self._kind][0]).decode()

    def __eq__(self, other: object) -> bool:
        blob = other.asbytes()  # type: ignore[attr-defined]
        return blob in self._known.keys[self._kind] and blob not in self._known.revoked

    __hash__ = None  # type: ignore[assignment]


def verify_host_keys(client: paramiko.SSHClient, known: KnownKeys, to: Target) -> None:
    """Fabric accepts every host key (AutoAddPolicy is hard-coded): take that back."""
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, _client: Any, _name: str, key: paramiko.PKey) -> None:
            raise HostKeyError(key, known)

    client.set_missing_host_key_policy(Refuse())
    # paramiko looks a host up by what was dialled; HostKeyAlias is another name for it.
    name = to.address if to.port == 22 else f"[{to.address}]:{to.port}"
    for kind in known.keys:
        client.get_host_keys().add(name, kind, _AnyOf(kind, known))  # type: ignore[arg-type]


def preferring(known: KnownKeys) -> Callable[..., paramiko.Transport]:
    """Makes transports that ask the server for a kind of key that is known, as OpenSSH does."""
    import paramiko

    def make(*args: Any, **options: Any) -> paramiko.Transport:
        transport = paramiko.Transport(*args, **options)
        offered = transport.get_security_options()
        wanted = [name for name in offered.key_types if _kind(name) in known.keys]
        others = [name for name in offered.key_types if name not in wanted]
        offered.key_types = tuple(wanted + others)
        return transport

    return make


def _kind(algorithm: str) -> str:
    """The kind of key that a signature algorithm is for (RFC 8332)."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def fingerprint(key: paramiko.PKey) -> str:
    """Given a public key, return what `ssh-keygen -l` prints: "ssh-ed25519 SHA256:..."."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def refused_key(key: paramiko.PKey, known: KnownKeys, to: Target) -> UnreachableError:
    """Why a server's key is not accepted, and what to do."""
    files = ", ".join(map(str, to.known_hosts))
    file = to.known_hosts[0]
    scan = f"ssh-keyscan -p {to.port} {to.address} >> {file}"
    if to.known_as not in (to.address, f"[{to.address}]:{to.port}"):
        scan = f"add the key under the name {to.known_as} (HostKeyAlias) to {file}"
    if key.asbytes() in known.revoked:
        return UnreachableError(
            f"{to.label}: its host key {fingerprint(key)} is marked @revoked in {files}",
            hint="give the host a new key (ssh-keygen -A on it), then put that into known_hosts",
        )
    if known.keys:
        return UnreachableError(
            f"{to.label}: the host key has CHANGED: it is now {fingerprint(key)}, "
            f"{files} says otherwise",
            hint=f"if the machine was reinstalled: ssh-keygen -R '{to.known_as}' -f {file} && "
            f"{scan}; if not, somebody may be in between",
        )
    if known.has_authority:
        return UnreachableError(
            f"{to.label}: {files} has a @cert-authority for it and not its own key; host "
            f"certificates are not supported (its key is {fingerprint(key)})",
            hint=f"compare the fingerprint with the host's own, then: {scan}",
        )
    return UnreachableError(
        f"{to.label}: unknown host key {fingerprint(key)}, not in {files}",
        hint=f"compare the fingerprint with the host's own, then: {scan}",
    )
