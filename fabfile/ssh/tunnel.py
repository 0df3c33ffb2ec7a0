"""One HTTP request through a host's SSH connection, as if it was sent on that host itself."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fabfile.base.errors import SwarmkeepError

if TYPE_CHECKING:
    import paramiko

T = TypeVar("T")

CHECK_HEADER = "X-Swarmkeep-Check"
"""Tells our proxy that the request is not to wait for an app that starts."""

_BLOCK = 16384
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_CHECKED = re.compile(rb"(?i)\r\n%s: *([a-z0-9.-]+) *\r\n" % CHECK_HEADER.encode())
_PROHIBITED = 1
"""RFC 4254, 5.1: SSH_OPEN_ADMINISTRATIVELY_PROHIBITED."""
_MOST = 65536
"""Bytes of an answer that are read at most: its status line comes first."""


@dataclass(frozen=True)
class Answer:
    """What came back: the status (0: no HTTP) and the server's certificate (DER; b"" for none).

    `checked` is the domain that our proxy says it answers for; "" from any other server.
    """

    status: int
    certificate: bytes
    checked: str = ""


@dataclass(frozen=True)
class Request:
    """A GET request for `name`. `timeout` is in seconds, `address` as the other end sees it."""

    name: str
    port: int
    tls: bool = False
    timeout: float = 10
    address: str = "127.0.0.1"
    path: str = "/"


def get(transport: paramiko.Transport, request: Request) -> Answer:
    """Send a request from the machine at the other end.

    The certificate is not verified: whoever asks looks at it. Raises OSError (ssl.SSLError and
    TimeoutError, too) where nobody answers as HTTP or TLS want it, SwarmkeepError where the SSH
    server forwards no connections.
    """
    import paramiko

    try:
        channel = transport.open_channel(
            "direct-tcpip",
            (request.address, request.port),
            ("127.0.0.1", 0),
            timeout=request.timeout,
        )
    except paramiko.ChannelException as error:
        if error.code == _PROHIBITED:
            raise SwarmkeepError(
                "the SSH server forwards no connections",
                hint="set AllowTcpForwarding local in its sshd_config",
            ) from error
        raise ConnectionRefusedError("nothing listens there") from error
    with channel:
        channel.settimeout(request.timeout)
        return _ask(channel, request)


def _ask(channel: paramiko.Channel, request: Request) -> Answer:
    lines = (f"GET {request.path} HTTP/1.1", f"Host: {request.name}", f"{CHECK_HEADER}: now",
             "Connection: close")  # fmt: skip
    text = "".join(f"{line}\r\n" for line in (*lines, "")).encode()
    if not request.tls:
        channel.sendall(text)
        return _answer(_read(channel), b"")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _Tls(channel, context, request.name).ask(text)


def _read(channel: paramiko.Channel) -> bytes:
    said = b""
    while len(said) < _MOST and b"\r\n\r\n" not in said:
        block = channel.recv(_BLOCK)
        if not block:
            break
        said += block
    return said


def _answer(said: bytes, certificate: bytes) -> Answer:
    status = _STATUS.match(said)
    checked = _CHECKED.search(said.partition(b"\r\n\r\n")[0] + b"\r\n")
    return Answer(
        int(status[1]) if status else 0, certificate, checked[1].decode() if checked else ""
    )


class _Tls:
    """TLS over a channel, which is no socket that Python's own could be put around."""

    def __init__(self, channel: paramiko.Channel, context: ssl.SSLContext, name: str) -> None:
        self._channel = channel
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)

    def ask(self, request: bytes) -> Answer:
        self._until(self._tls.do_handshake)
        certificate = self._tls.getpeercert(binary_form=True) or b""
        self._until(lambda: self._tls.write(request))
        said = b""
        while len(said) < _MOST and b"\r\n\r\n" not in said:
            block = self._until(lambda: self._tls.read(_BLOCK))
            if not block:
                break
            said += block
        return _answer(said, certificate)

    def _until(self, step: Callable[[], T]) -> T:
        """Take a step of the protocol as soon as the other side has said what it needs."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send()
                block = self._channel.recv(_BLOCK)
                if not block:
                    raise ConnectionResetError("the connection was closed") from None
                self._in.write(block)
            else:
                self._send()
                return result

    def _send(self) -> None:
        if waiting := self._out.read():
            self._channel.sendall(waiting)
