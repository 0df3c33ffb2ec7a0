"""Many hosts with role: db, simulated: a real SSH server each, which answers without doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paramiko
import yaml

from fabfile.backup import host_files
from fabfile.config import hosts_file
from fabfile.config.inventory import Inventory
from fabfile.ssh.channel import BEGIN
from tests.ssh.server import DEADLINE, SshServer


class Crowd:
    """What many simulated hosts share: their answer, and how many were busy at once."""

    def __init__(self, answer: str, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        """How long each command takes."""
        self.busiest = 0
        self._busy = 0
        self._two = threading.Event()
        self._lock = threading.Lock()

    def work(self) -> None:
        """Take the time; the very first waits until a second one has come."""
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            if self._busy == 2:
                self._two.set()
        self._two.wait(DEADLINE)
        time.sleep(self.seconds)
        with self._lock:
            self._busy -= 1


class SimulatedHost(SshServer):
    """Reads a command's input to its end and answers what its crowd answers."""

    def __init__(self, crowd: Crowd, client_key: paramiko.PKey, **options: Any) -> None:
        self.crowd = crowd
        super().__init__(client_key, **options)

    def execute(self, channel: paramiko.Channel, command: bytes) -> None:
        """Stand for sh."""
        while channel.recv(65536):
            pass
        self.crowd.work()
        channel.sendall(BEGIN + self.crowd.answer.encode())
        channel.send_exit_status(0)
        channel.close()


def all_right(inventory: Inventory, secrets: Any) -> str:
    """What a host says on which everything is installed and was checked."""
    wanted = host_files.files(inventory.with_role("db")[0], inventory, secrets)
    lines = [f"same {file.path}" for file in wanted]
    return "\n".join([*lines, f"checked {host_files.fingerprint(wanted)}", ""])


def write_inventory(
    folder: Path, servers: Mapping[str, SshServer], dead: dict[str, int], *, connect_timeout: int
) -> Path:
    """A hosts file of live and dead db hosts (name -> port); "id" in the folder is the key."""
    lines = [
        f"[127.0.0.1]:{server.port} {server.host_key.get_name()} {server.host_key.get_base64()}\n"
        for server in servers.values()
    ]
    (folder / "known_hosts").write_text("".join(lines))
    ports = {name: server.port for name, server in servers.items()} | dead
    hosts: dict[str, Any] = {
        name: {"address": "127.0.0.1", "port": port, "role": "db"} for name, port in ports.items()
    }
    hosts["manager"] = {"address": "192.0.2.1", "swarm": "manager"}
    data = {
        "ssh": {"key": "id", "known_hosts": "known_hosts", "connect_timeout": connect_timeout},
        "hosts": hosts,
        "s3_bucket_name": "test-bucket",
        "vault": {"file": "vault.yml", "password_file": "vault-password"},
        "db": {"data_host": next(iter(servers))},
    }
    path = folder / "hosts.yaml"
    path.write_text(yaml.safe_dump(data))
    hosts_file.load(path)
    return path
