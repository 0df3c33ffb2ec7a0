"""Does the proxy answer for the app's domain, with a certificate that is good, and what for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.ssh.fleet import Fleet, Host

POLL_SECONDS = 1.0
CERTIFICATE_SECONDS = 90.0
"""How long a certificate is waited for: an ACME server looks several times before it gives one."""
AWAY = (502, 503, 504)
"""What the proxy itself answers while no task of the app does."""


@dataclass(frozen=True)
class Found:
    """What one host's proxy said. `problem` is "" where it answers as it should."""

    problem: str
    status: int = 0
    days_left: float | None = None
    """Of the certificate; None without one."""
    issuer: str = ""

    @property
    def reaches_app(self) -> bool:
        """Whether a task of the app answered through it."""
        return not self.problem and self.status not in (0, *AWAY)


def look(host: Host, inventory: Inventory) -> Found:
    """Ask the proxy on a host once. Raises SwarmkeepError if the host cannot be asked."""
    proxy, domain = inventory.proxy, inventory.app.domain
    tls = proxy.certificates != "none"
    port = proxy.https_port if tls else proxy.http_port
    try:
        answer = host.get(domain, port, tls=tls)
    except OSError as error:
        said = str(getattr(error, "reason", "") or error) or type(error).__name__
        if "TLSV1_ALERT_INTERNAL_ERROR" in said:
            return Found(f"has no certificate for {domain} yet")
        return Found(f"port {port}: {said.lower()}")
    if not answer.status:
        return Found(f"port {port}: does not answer as HTTP")
    if not tls:
        return Found("", answer.status)
    return _judged(answer.certificate, domain, answer.status)


def _judged(certificate: bytes, domain: str, status: int) -> Found:
    from cryptography import x509

    from fabfile.base import certificates

    found = x509.load_der_x509_certificate(certificate)
    left = (found.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400
    issuer = certificates.issuer(found)
    if not certificates.is_for(found, domain):
        return Found(f"its certificate is not for {domain}", status, left, issuer)
    if left < 0:
        return Found(f"its certificate has expired {-left:.1f} days ago", status, left, issuer)
    return Found("", status, left, issuer)


def look_at_all(fleet: Fleet) -> dict[str, Found]:
    """What the proxy on each host says now; a host that cannot be asked is a problem, too."""
    outcomes = fleet.fan_out(
        fleet.inventory.with_role("proxy"), lambda host: look(host, fleet.inventory)
    )
    return {
        one.entry.name: one.value or Found(one.error.message if one.error else "was not asked")
        for one in outcomes
    }


def await_proxy(fleet: Fleet, deadline: float = CERTIFICATE_SECONDS) -> dict[str, Found]:
    """Wait until the proxy of every host answers as it should; return what each said, by host.

    Raises SwarmkeepError, naming the host and what is wrong.
    """
    inventory = fleet.inventory
    end = time.monotonic() + deadline
    return {
        entry.name: _await(fleet, entry, inventory, end) for entry in inventory.with_role("proxy")
    }


def _await(fleet: Fleet, entry: HostEntry, inventory: Inventory, end: float) -> Found:
    while True:
        found = look(fleet.host(entry), inventory)
        if not found.problem:
            return found
        if time.monotonic() > end:
            raise SwarmkeepError(
                f"{inventory.proxy.stack}: the proxy on {entry.name} {found.problem}",
                hint=_hint(inventory),
            )
        time.sleep(POLL_SECONDS)


def _hint(inventory: Inventory) -> str:
    log = f"docker service logs {inventory.proxy.stack}_caddy"
    if inventory.proxy.certificates == "acme":
        return (
            f"does {inventory.app.domain} resolve to that host, and can the certificate authority "
            f"reach its ports 80 and 443? It is tried again by itself; what Caddy says: {log}"
        )
    return f"what Caddy says: {log}"
