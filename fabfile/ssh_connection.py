"""Opening one SSH connection with its host key verified, and saying clearly why it failed.

The only importer of fabric and paramiko. Fabric makes and owns the connection (gateway,
time-outs, authentication); the commands run on paramiko channels (channel.py), since
Invoke's runner feeds stdin one byte per 10 ms, and Fabric's sudo answers its prompt on
the same stdin that carries our secrets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.errors import SwarmkeepError, UnreachableError

if TYPE_CHECKING:
    import fabric
    import paramiko

    from fabfile.inventory import Gateway, HostEntry, Ssh

DEAD_PEER_SECONDS = 30
"""How long a peer may leave our packets unacknowledged before the kernel drops the connection."""


class UnknownHostKeyError(Exception):
    """The server's key is not in known_hosts."""

    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__(fingerprint(key))


def open_connection(
    ssh: Ssh, entry: HostEntry, remember: Callable[[fabric.Connection], None]
) -> fabric.Connection:
    """Open a verified connection to a host, through the gateway if there is one.

    Every connection made is handed to `remember` before it is opened, so that the
    caller can close it. Raises UnreachableError.
    """
    _quiet()
    label = f"{entry.name} ({entry.address}:{entry.port})"
    gateway = None
    if ssh.gateway:
        gateway = _build(ssh, ssh.gateway, None)
        remember(gateway)
        _open(gateway, f"gateway ({ssh.gateway.address}:{ssh.gateway.port})", ssh.gateway, ssh)
    connection = _build(ssh, entry, gateway)
    remember(connection)
    _open(connection, label, entry, ssh)
    return connection


def _quiet() -> None:
    """Keep paramiko's threads from printing tracebacks of what we report as one line.

    Where no handler is set up, Python's logging prints everything from WARNING on.
    """
    logger = logging.getLogger("paramiko")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _build(
    ssh: Ssh, to: HostEntry | Gateway, gateway: fabric.Connection | None
) -> fabric.Connection:
    import fabric
    import paramiko

    key = getattr(to, "key", None) or ssh.key
    # Its own dict and its own Config each: a shared one leaks one host's key into the next.
    options: dict[str, Any] = {
        "banner_timeout": ssh.connect_timeout,
        "auth_timeout": ssh.connect_timeout,
        "channel_timeout": ssh.connect_timeout,
    }
    if key:
        # A named key means that key and no other: an agent full of keys runs into MaxAuthTries.
        options |= {"pkey": _load_key(key), "allow_agent": False, "look_for_keys": False}
    connection = fabric.Connection(
        to.address,
        user=to.user,
        port=to.port,
        gateway=gateway if gateway is not None else False,
        connect_timeout=ssh.connect_timeout,
        connect_kwargs=options,
        # hosts.yaml is the one truth: ~/.ssh/config would silently win over it.
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
    )
    _verify_host_keys(connection.client, ssh.known_hosts, to)
    return connection


def _load_key(path: Path) -> paramiko.PKey:
    """Load a private key. (With `key_filename` paramiko tries one key type after the other
    and hides a refused login behind the last one's parse error.)
    """
    import paramiko

    try:
        return paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError):
        # cryptography's way to say that the key is encrypted is a TypeError.
        raise UnreachableError(
            f"{path}: the SSH key is encrypted",
            hint="load it into an agent (ssh-add) and leave ssh.key out of hosts.yaml",
        ) from None
    except FileNotFoundError:
        raise UnreachableError(f"{path}: no such SSH key", hint="check ssh.key") from None
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise UnreachableError(
            f"{path}: is not a readable SSH key: {error}", hint="check ssh.key"
        ) from None


def _verify_host_keys(
    client: paramiko.SSHClient, known_hosts: Path, to: HostEntry | Gateway
) -> None:
    """Fabric accepts every host key (AutoAddPolicy is hard-coded): take that back."""
    import paramiko

    class Refuse(paramiko.MissingHostKeyPolicy):
        def missing_host_key(self, _client: Any, _name: str, key: paramiko.PKey) -> None:
            raise UnknownHostKeyError(key)

    client.set_missing_host_key_policy(Refuse())
    name = _known_as(to)
    for kind, key in _known_keys(known_hosts, name).items():
        client.get_host_keys().add(name, kind, key)


def _known_as(to: HostEntry | Gateway) -> str:
    """What OpenSSH calls a host in known_hosts."""
    return to.address if to.port == 22 else f"[{to.address}]:{to.port}"


def _known_keys(known_hosts: Path, name: str) -> dict[str, paramiko.PKey]:
    """A host's keys in known_hosts by their kind; the first of each kind counts.

    Only the host's own lines are parsed: paramiko's load() compares every line with all the
    others, for every connection anew, which takes longer than the connections of 100 hosts.
    """
    import paramiko
    from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

    # A missing file means that no host is known, which opening then says with the next step.
    lines = known_hosts.read_text(errors="replace").splitlines() if known_hosts.is_file() else []
    found: dict[str, paramiko.PKey] = {}
    for line in map(str.strip, lines):
        names = line.split(maxsplit=1)[0].split(",") if line else []
        if not any(_is_name(pattern, name) for pattern in names):
            continue
        try:
            entry = HostKeyEntry.from_line(line)
        except (InvalidHostKey, paramiko.SSHException):
            continue
        if entry is not None and entry.key is not None:
            found.setdefault(entry.key.get_name(), entry.key)
    return found


def _is_name(pattern: str, name: str) -> bool:
    """Whether a name field of known_hosts, plain or hashed (HashKnownHosts), is this name's."""
    if not pattern.startswith("|1|"):
        return pattern == name
    salt, _, digest = pattern.removeprefix("|1|").partition("|")
    try:
        key, wanted = base64.b64decode(salt), base64.b64decode(digest)
    except ValueError:
        return False
    return hmac.digest(key, name.encode(), "sha1") == wanted


def _dial(to: HostEntry | Gateway, timeout: float) -> socket.socket:
    """A TCP connection without Nagle's delay: it would hold back small packets of the handshake
    until those before them are acknowledged, for 60 ms on the lab and for round trips elsewhere.
    """
    sock = socket.create_connection((to.address, to.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _open(connection: fabric.Connection, label: str, to: HostEntry | Gateway, ssh: Ssh) -> None:
    try:
        if not connection.gateway:
            connection.connect_kwargs["sock"] = _dial(to, ssh.connect_timeout)
        connection.open()
    except Exception as error:
        raise explain(error, label, to, ssh) from error
    sock = connection.transport.sock
    if isinstance(sock, socket.socket):
        # A host that loses power sends nothing: without these, a read waits for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_SECONDS * 1000)


def fingerprint(key: paramiko.PKey) -> str:
    """Given a public key, return what `ssh-keygen -l` prints: "ssh-ed25519 SHA256:..."."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def explain(error: Exception, label: str, to: HostEntry | Gateway, ssh: Ssh) -> SwarmkeepError:
    """Given what paramiko or the socket raised, return our error with the next step."""
    import paramiko

    at = f"-p {to.port} {to.address}"
    name = _known_as(to)
    scan = f"ssh-keyscan {at} >> {ssh.known_hosts}"
    if isinstance(error, UnknownHostKeyError):
        return UnreachableError(
            f"{label}: unknown host key {error}, not in {ssh.known_hosts}",
            hint=f"compare the fingerprint with the host's own, then: {scan}",
        )
    if isinstance(error, paramiko.BadHostKeyException):
        return UnreachableError(
            f"{label}: the host key has CHANGED: it is now {fingerprint(error.key)}, "
            f"{ssh.known_hosts} says otherwise",
            hint=f"if the machine was reinstalled: ssh-keygen -R '{name}' -f {ssh.known_hosts} && "
            f"{scan}; if not, somebody may be in between",
        )
    if isinstance(error, paramiko.AuthenticationException) or "authentication" in str(error):
        return UnreachableError(
            f"{label}: refused the login of user {to.user!r} with "
            f"{f'the key {ssh.key}' if ssh.key else 'the keys of the agent and ~/.ssh'}",
            hint=f"try: ssh {at.replace('-p 22 ', '')} -l {to.user}; check ssh.user and ssh.key",
        )
    return UnreachableError(
        f"{label}: {_network_reason(error, ssh)}", hint=_network_hint(error, to)
    )


def _network_reason(error: Exception, ssh: Ssh) -> str:
    import paramiko

    text = str(error) or type(error).__name__
    if isinstance(error, ConnectionRefusedError):
        text = "connection refused"
    elif isinstance(error, socket.gaierror):
        text = "the host name cannot be resolved"
    elif isinstance(error, TimeoutError) or "timed out" in text.lower():
        text = f"no answer within {ssh.connect_timeout} s"
    elif "protocol banner" in text or "No existing session" in text:
        text = f"accepts connections but no SSH server answers within {ssh.connect_timeout} s"
    elif isinstance(error, paramiko.ChannelException):
        text = f"the gateway cannot reach it: {text}"
    elif isinstance(error, EOFError):
        text = "the connection was closed"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror.lower()
    return text


def _network_hint(error: Exception, to: HostEntry | Gateway) -> str:
    if isinstance(error, socket.gaierror):
        return "check the address in hosts.yaml"
    return f"is the host up and sshd on port {to.port}? check the address and firewall"
