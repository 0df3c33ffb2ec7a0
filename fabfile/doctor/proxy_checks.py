"""The reverse proxy as clients find it: the domain, the port, the certificate."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from fabfile.base.check import Check
from fabfile.base.errors import SwarmkeepError
from fabfile.config.inventory import Inventory
from fabfile.doctor.finding import Finding, failure
from fabfile.ssh.fleet import Fleet, Host
from fabfile.swarm import proxy_health
from fabfile.swarm.proxy_health import Found

GROUP = "proxy"
SHARE_LEFT = 1 / 6
"""Caddy renews a certificate when a third of its time is left: with less than this it cannot."""
CONNECT_SECONDS = 5.0


def look(fleet: Fleet) -> list[Finding]:
    """Every check of the proxy; none where hosts.yaml has none."""
    inventory = fleet.inventory
    if not inventory.proxy.hosts:
        return []

    def ask(host: Host) -> dict[str, Found]:
        return {one: proxy_health.look(host, inventory, one) for one in inventory.domains}

    outcomes = fleet.fan_out(inventory.with_role("proxy"), ask)
    findings = [Finding(GROUP, resolves(inventory, name)) for name in inventory.domains]
    for outcome in outcomes:
        if outcome.value is None:
            error = outcome.error or SwarmkeepError("was not asked")
            findings.append(failure(GROUP, f"answers {outcome.entry.name}", error))
        for name, found in (outcome.value or {}).items():
            findings += _of_host(inventory, outcome.entry.name, name, found)
    return findings


def resolves(inventory: Inventory, name: str) -> Check:
    """Whether a domain resolves, and somebody listens there, as seen from this machine."""
    proxy = inventory.proxy
    port = proxy.http_port if proxy.certificates == "none" else proxy.https_port
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, port)})
    except OSError as error:
        return Check(
            "domain",
            False,
            f"{name} does not resolve: {error.strerror or error}",
            f"make it point to {_addresses(inventory)} in DNS",
        )
    said = f"{name} is {', '.join(found)}"
    try:
        socket.create_connection((name, port), CONNECT_SECONDS).close()
    except OSError as error:
        return Check(
            "domain",
            False,
            f"{said}; port {port} cannot be reached from here: {error.strerror or error}",
            f"is that {_addresses(inventory)}, and does its firewall let port {port} in?",
        )
    return Check("domain", True, f"{said}, port {port} is open")


def _addresses(inventory: Inventory) -> str:
    return ", ".join(host.address for host in inventory.with_role("proxy"))


def _of_host(inventory: Inventory, host: str, domain: str, found: Found) -> Sequence[Finding]:
    name = f"answers {host}"
    log = f"docker service logs {inventory.proxy.stack}_caddy"
    if found.problem:
        return [Finding(GROUP, Check(name, False, found.problem, f"inv deploy-proxy; {log}"))]
    findings = [
        Finding(
            GROUP,
            Check(
                name,
                found.reaches_app,
                f"HTTP {found.status} for {domain}",
                f"no task of the app answers behind it: inv status, inv deploy-app; {log}",
            ),
        )
    ]
    if found.days_left is not None:
        good = (found.share_left or 0) > SHARE_LEFT
        findings.append(
            Finding(
                GROUP,
                Check(
                    f"certificate {host}",
                    good,
                    f"{domain}: of {found.issuer}, {found.days_left:.1f} of {found.days:.1f} "
                    "days left",
                    "put a new one into the vault, then inv deploy-proxy"
                    if inventory.proxy.certificates == "vault"
                    else f"it is not renewed; what Caddy says: {log}",
                ),
            )
        )
    return findings
