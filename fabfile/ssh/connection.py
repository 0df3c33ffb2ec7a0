"""Opening one SSH connection with its host key verified, and saying clearly why it failed.

The only importer of fabric. Fabric makes and owns the connection (gateway,
time-outs, authentication); the commands run on paramiko channels (ssh/channel.py), since
Invoke's runner feeds stdin one byte per 10 ms, and Fabric's sudo answers its prompt on
the same stdin that carries our secrets.
"""

from __future__ import annotations

import base64
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.ssh import known_hosts, ssh_config
from fabfile.ssh.host_keys import HostKeyError, preferring, refused_key, verify_host_keys
from fabfile.ssh.ssh_config import Target

if TYPE_CHECKING:
    import fabric
    import paramiko

    from fabfile.config.inventory import HostEntry, Ssh

DEAD_PEER_SECONDS = 30
"""How long a peer may leave our packets unacknowledged before the kernel drops the connection."""


def open_connection(
    ssh: Ssh, entry: HostEntry, remember: Callable[[fabric.Connection], None]
) -> fabric.Connection:
    """Open a verified connection to a host, over the jump hosts if there are any.

    Every connection made is handed to `remember` before it is opened, so that the
    caller can close it. Raises UnreachableError, or ConfigError for ~/.ssh/config.
    """
    _quiet()
    way = ssh_config.route(ssh, entry)
    connection = None
    for target in (*way.jumps, way.target):
        connection = _build(ssh, target, connection)
        remember(connection)
        _open(connection, target, ssh)
    assert connection is not None
    return connection


def _quiet() -> None:
    """Keep paramiko's threads from printing tracebacks of what we report as one line.

    Where no handler is set up, Python's logging prints everything from WARNING on.
    """
    logger = logging.getLogger("paramiko")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _build(ssh: Ssh, to: Target, gateway: fabric.Connection | None) -> fabric.Connection:
    import fabric
    import paramiko

    known = known_hosts.read(to.known_hosts, to.known_as)
    # Its own dict and its own Config each: a shared one leaks one host's key into the next.
    options: dict[str, Any] = {
        "banner_timeout": ssh.connect_timeout,
        "auth_timeout": ssh.connect_timeout,
        "channel_timeout": ssh.connect_timeout,
        "transport_factory": preferring(known),
    }
    if len(to.keys) == 1 and not to.agent:
        # A named key means that key and no other: an agent full of keys runs into MaxAuthTries.
        options |= {"pkey": _load_key(to.keys[0]), "allow_agent": False, "look_for_keys": False}
    elif to.keys:
        names = [str(key) for key in to.keys]
        options |= {"key_filename": names, "allow_agent": to.agent, "look_for_keys": False}
    connection = fabric.Connection(
        to.address,
        user=to.user,
        port=to.port,
        gateway=gateway if gateway is not None else False,
        connect_timeout=ssh.connect_timeout,
        connect_kwargs=options,
        # What counts of ~/.ssh/config is in `to`: Fabric's own reading would win over hosts.yaml.
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
    )
    verify_host_keys(connection.client, known, to)
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
        return _from_agent(path)
    except FileNotFoundError:
        raise UnreachableError(f"{path}: no such SSH key", hint="check ssh.key") from None
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise UnreachableError(
            f"{path}: is not a readable SSH key: {error}", hint="check ssh.key"
        ) from None


def _from_agent(path: Path) -> paramiko.PKey:
    """An encrypted key, as the agent holds it: what OpenSSH does."""
    import paramiko

    wanted = _public_half(path)
    held = paramiko.Agent().get_keys()
    found = next((key for key in held if key.asbytes() == wanted), None)
    if found is not None:
        return found
    reason = "the SSH agent does not hold it" if held else "no SSH agent holds any key"
    if wanted is None:
        reason = f"which of the agent's keys it is cannot be told without {path}.pub"
    raise UnreachableError(
        f"{path}: the SSH key is encrypted, and {reason}",
        hint=f"ssh-add {path} (with an agent that runs: eval $(ssh-agent))",
    )


def _public_half(path: Path) -> bytes | None:
    """The public key that belongs to a private one, from KEY.pub or from the key's own file."""
    try:
        words = path.with_name(f"{path.name}.pub").read_text(errors="replace").split()
        return base64.b64decode(words[1])
    except (OSError, ValueError, IndexError):
        return known_hosts.public_blob(path.read_bytes())


def _dial(to: Target, timeout: float) -> socket.socket:
    """A TCP connection without Nagle's delay: it would hold back small packets of the handshake
    until those before them are acknowledged, for 60 ms on the lab and for round trips elsewhere.
    """
    sock = socket.create_connection((to.address, to.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _open(connection: fabric.Connection, to: Target, ssh: Ssh) -> None:
    try:
        if not connection.gateway:
            connection.connect_kwargs["sock"] = _dial(to, ssh.connect_timeout)
        connection.open()
    except Exception as error:
        raise explain(error, to, ssh) from error
    sock = connection.transport.sock
    if isinstance(sock, socket.socket):
        # A host that loses power sends nothing: without these, a read waits for ever.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_SECONDS * 1000)


def explain(error: Exception, to: Target, ssh: Ssh) -> SwarmkeepError:
    """Given what paramiko or the socket raised, return our error with the next step."""
    import paramiko

    at = f"-p {to.port} {to.address}"
    if isinstance(error, SwarmkeepError):
        return error
    if isinstance(error, HostKeyError):
        return refused_key(error.key, error.known, to)
    if isinstance(error, paramiko.BadHostKeyException):
        return refused_key(error.key, known_hosts.read(to.known_hosts, to.known_as), to)
    if isinstance(error, paramiko.AuthenticationException) or "authentication" in str(error):
        return UnreachableError(
            f"{to.label}: refused the login of user {to.user!r} with {_keys_tried(to)}",
            hint=f"try: ssh {at.replace('-p 22 ', '')} -l {to.user}; check ssh.user and ssh.key",
        )
    return UnreachableError(
        f"{to.label}: {_network_reason(error, ssh)}", hint=_network_hint(error, to)
    )


def _keys_tried(to: Target) -> str:
    named = ", ".join(str(key) for key in to.keys)
    if named and not to.agent:
        return f"the key {named}"
    return f"the keys of the agent and {named or '~/.ssh'}"


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


def _network_hint(error: Exception, to: Target) -> str:
    if isinstance(error, socket.gaierror):
        return "check the address in hosts.yaml"
    return f"is the host up and sshd on port {to.port}? check the address and firewall"
