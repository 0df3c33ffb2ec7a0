"""Does the proxy answer for the app's domain, with a certificate that is good, and what for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.ssh.fleet import Fleet, Host
from fabfile.ssh.tunnel import Request
from fabfile.swarm.state import Cluster

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
    days: float | None = None
    """How long the certificate is good for from its beginning to its end; None without one."""
    issuer: str = ""

    @property
    def share_left(self) -> float | None:
        """How much of the certificate's time is left, from 1 to 0; None without a certificate."""
        return None if self.days_left is None or not self.days else self.days_left / self.days

    @property
    def reaches_app(self) -> bool:
        """Whether a task of the app answered through it."""
        return not self.problem and self.status not in (0, *AWAY)


def look(host: Host, inventory: Inventory, domain: str) -> Found:
    """Ask the proxy on a host for a domain, once. SwarmkeepError if the host cannot be asked."""
    proxy = inventory.proxy
    tls = proxy.certificates != "none"
    port = proxy.https_port if tls else proxy.http_port
    try:
        answer = host.get(Request(domain, port, tls))
    except OSError as error:
        said = str(getattr(error, "reason", "") or error) or type(error).__name__
        if "TLSV1_ALERT_INTERNAL_ERROR" in said:
            return Found(f"has no certificate for {domain} yet")
        return Found(f"port {port}: {said.lower()}")
    if not answer.status:
        return Found(f"port {port}: does not answer as HTTP")
    if answer.checked != domain:
        return Found(f"port {port}: answers, but not for {domain}: inv deploy-proxy")
    if not tls:
        return Found("", answer.status)
    return _judged(answer.certificate, domain, answer.status)


def _judged(certificate: bytes, domain: str, status: int) -> Found:
    from cryptography import x509

    from fabfile.base import certificates

    found = x509.load_der_x509_certificate(certificate)
    end = found.not_valid_after_utc
    left = (end - datetime.now(UTC)).total_seconds() / 86400
    days = (end - found.not_valid_before_utc).total_seconds() / 86400
    problem = ""
    if not certificates.is_for(found, domain):
        problem = f"has a certificate that is not for {domain}"
    elif left < 0:
        problem = f"has a certificate that expired {-left:.1f} days ago"
    return Found(problem, status, left, days, certificates.issuer(found))


def look_at_all(fleet: Fleet, domain: str) -> dict[str, Found]:
    """What the proxy on each host says for a domain; one that cannot be asked is a problem, too."""
    outcomes = fleet.fan_out(
        fleet.inventory.with_role("proxy"), lambda host: look(host, fleet.inventory, domain)
    )
    return {
        one.entry.name: one.value or Found(one.error.message if one.error else "was not asked")
        for one in outcomes
    }


def working(inventory: Inventory, cluster: Cluster) -> tuple[HostEntry, ...]:
    """The hosts of the proxy whose nodes are ready and active: on others it does not run."""
    ready = {
        node.name
        for node in cluster.nodes
        if node.state == "ready" and node.availability == "active"
    }
    return tuple(host for host in inventory.with_role("proxy") if host.node in ready)


def await_proxy(
    fleet: Fleet,
    cluster: Cluster,
    domain: str,
    *,
    reaches_app: bool = False,
    deadline: float = CERTIFICATE_SECONDS,
) -> dict[str, Found]:
    """Wait until the proxy of every host whose node works answers for a domain, and with
    `reaches_app` until a task of the app does through it; return what each said, by host.

    Raises SwarmkeepError, naming the host and what is wrong, and where there is no such host.
    """
    inventory = fleet.inventory
    hosts = working(inventory, cluster)
    if not hosts:
        raise SwarmkeepError(
            f"{inventory.proxy.stack}: no node of its hosts is ready and active",
            hint="see inv status; bring one up, or name another in proxy.hosts",
        )
    end = time.monotonic() + deadline
    return {
        entry.name: _await(fleet, entry, domain, end, reaches_app=reaches_app) for entry in hosts
    }


def _await(fleet: Fleet, entry: HostEntry, domain: str, end: float, *, reaches_app: bool) -> Found:
    inventory = fleet.inventory
    while True:
        found = look(fleet.host(entry), inventory, domain)
        problem = found.problem
        if not problem and reaches_app and not found.reaches_app:
            problem = f"does not reach the app (HTTP {found.status})"
        if not problem:
            return found
        if time.monotonic() > end:
            raise SwarmkeepError(
                f"{inventory.proxy.stack}: the proxy on {entry.name} {problem}",
                hint=_hint(inventory, domain)
                if found.problem
                else "do the nodes reach each other by UDP port 4789? What is on the network: "
                f"docker network inspect {inventory.proxy.network}; inv status",
            )
        time.sleep(POLL_SECONDS)


def _hint(inventory: Inventory, domain: str) -> str:
    log = f"docker service logs {inventory.proxy.stack}_caddy"
    if inventory.proxy.certificates == "acme":
        return (
            f"does {domain} resolve to that host, and can the certificate authority "
            f"reach its ports 80 and 443? It is tried again by itself; what Caddy says: {log}"
        )
    return f"what Caddy says: {log}"
