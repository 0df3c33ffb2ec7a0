"""What hosts.yaml says of the reverse proxy in front of the app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CERTIFICATES = ("acme", "internal", "vault", "none")
"""Where the proxy's certificate is from: an ACME server, an authority of its own, the vault, or
nowhere: then it speaks HTTP only.
"""


@dataclass(frozen=True)
class Proxy:
    """The stack of the reverse proxy in front of the app."""

    stack: str
    image: str
    hosts: tuple[str, ...] = ()
    """Names of the hosts whose ports it publishes; none: there is no proxy."""
    certificates: str = "none"
    """One of CERTIFICATES."""
    email: str = ""
    """The account's mail address at the ACME server."""
    acme_directory: str = ""
    acme_root: Path | None = None
    """A PEM file with the authority of the ACME server itself, where it is a private one."""
    http_port: int = 80
    https_port: int = 443
    wait: int = 30
    """Seconds that a request waits for an app that starts."""
    drain: int = 10
    """Seconds that a task of the app answers on after its successor has taken over."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of load balancers in front of it, which say who the client is."""

    @property
    def ports(self) -> tuple[int, int]:
        """For HTTP and for HTTPS."""
        return (self.http_port, self.https_port)

    @property
    def network(self) -> str:
        """The network on which the proxy reaches the app."""
        return f"{self.stack}_frontend"
