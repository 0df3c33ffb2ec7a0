"""The lab's network: a bridge of its own on a subnet that nobody uses."""

from __future__ import annotations

import ipaddress
from contextlib import AbstractContextManager
from pathlib import Path

from fabfile.base.errors import SwarmkeepError
from lab import docker, locks
from lab.model import LABEL, Lab

POOL = ipaddress.IPv4Network("10.213.0.0/16")
ROUTES = Path("/proc/net/route")


def choosing() -> AbstractContextManager[None]:
    """Hold this from `choose_subnet` to `ensure`: two labs at once would choose the same one."""
    return locks.shared("subnets", lambda: None)


def choose_subnet() -> str:
    """Return the first three numbers of a /24 that no route and no Docker network touches."""
    used = [*_docker_subnets(), *routes(ROUTES.read_text())]
    for candidate in POOL.subnets(new_prefix=24):
        if not any(candidate.overlaps(other) for other in used):
            return str(candidate.network_address).rpartition(".")[0]
    raise SwarmkeepError(f"every subnet of {POOL} is in use", hint="inv lab.down --name ...")


def ensure(lab: Lab) -> bool:
    """Make the lab's network if there is none; return whether it was made."""
    found = docker.inspect("network", lab.network)
    if found is None:
        docker.run(
            "network", "create", "--driver", "bridge", "--label", f"{LABEL}={lab.name}",
            "--subnet", f"{lab.subnet}.0/24", "--gateway", f"{lab.subnet}.1", lab.network,
        )  # fmt: skip
        return True
    if (found.get("Labels") or {}).get(LABEL) != lab.name:
        raise SwarmkeepError(
            f"Docker has a network {lab.network} that is not this lab's",
            hint="choose another name: inv lab.up --name NAME",
        )
    return False


def routes(table: str) -> list[ipaddress.IPv4Network]:
    """Given the text of /proc/net/route, return the networks in it, without the default route."""
    networks = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        # Numbers are written in hexadecimal, lowest byte first.
        address, mask = (
            ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(columns[i]), "little"))
            for i in (1, 7)
        )
        network = ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
        if network.prefixlen:
            networks.append(network)
    return networks


def _docker_subnets() -> list[ipaddress.IPv4Network]:
    found = []
    for name in docker.run("network", "ls", "--quiet").split():
        # One by one: another lab that is taken down meanwhile takes its network with it, and
        # `docker network inspect A B` fails as a whole when B is no more.
        network = docker.inspect("network", name) or {}
        for part in (network.get("IPAM") or {}).get("Config") or []:
            subnet = ipaddress.ip_network(part["Subnet"])
            if isinstance(subnet, ipaddress.IPv4Network):
                found.append(subnet)
    return found
