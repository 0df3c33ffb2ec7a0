"""Fixtures: a server, a key for it, and an inventory that points to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
import yaml

from fabfile.config import hosts_file
from fabfile.config.inventory import Inventory
from tests.ssh.server import SshServer


@pytest.fixture
def client_key(tmp_path: Path) -> paramiko.PKey:
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(tmp_path / "id"))
    return key


@pytest.fixture
def make_server(client_key: paramiko.PKey) -> Iterator[Callable[..., SshServer]]:
    servers: list[SshServer] = []

    def make(**options) -> SshServer:
        servers.append(SshServer(client_key, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server: Callable[..., SshServer]) -> SshServer:
    return make_server()


@pytest.fixture
def make_inventory(tmp_path: Path) -> Callable[..., Inventory]:
    """An inventory of the given servers, all their keys known, as host1, host2, ..."""

    def make(*servers: SshServer, known: bool = True, **ssh) -> Inventory:
        lines = [
            f"[127.0.0.1]:{s.port} {s.host_key.get_name()} {s.host_key.get_base64()}"
            for s in servers
        ]
        if known:
            (tmp_path / "known_hosts").write_text("\n".join(lines) + "\n")
        hosts = {
            f"host{i}": {
                "address": "127.0.0.1",
                "port": s.port,
                "swarm": "manager",
                "role": "db",
            }
            for i, s in enumerate(servers, 1)
        }
        data = {
            "ssh": {"key": "id", "known_hosts": "known_hosts", "connect_timeout": 3, **ssh},
            "hosts": hosts,
            "s3_bucket_name": "test-bucket",
        }
        path = tmp_path / "hosts.yaml"
        path.write_text(yaml.safe_dump(data))
        return hosts_file.load(path)

    return make


def with_ssh(inventory: Inventory, **changes) -> Inventory:
    """The same inventory with other SSH settings."""
    return replace(inventory, ssh=replace(inventory.ssh, **changes))
