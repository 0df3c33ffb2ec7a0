"""backup.install on a hundred db hosts, three of them dead. Its speed: bench/many_hosts.py."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from invoke.context import Context
from invoke.exceptions import Exit

from fabfile.base.errors import UNREACHABLE
from fabfile.commands import backup_hosts
from fabfile.config import hosts_file
from fabfile.ssh import fleet
from fabfile.terminal import process_cache
from fabfile.vault import reading
from tests.ssh.many import Crowd, SimulatedHost, all_right, write_inventory

pytestmark = pytest.mark.thorough

SERVERS = 98
"""With two dead ones they are a hundred; one of these is dead too, to who heeds its key."""
PASSWORD = "vault-pass"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of something that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def refused() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def crowd(tmp_path: Path, client_key) -> Iterator[dict[str, SimulatedHost]]:
    shared = Crowd("")
    hosts = {f"db{i:02}": SimulatedHost(shared, client_key) for i in range(1, SERVERS + 1)}
    yield hosts
    process_cache.close()
    for host in hosts.values():
        host.close()


def test_hundred_hosts_three_of_them_dead(crowd, silent, refused, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SWARMKEEP_DEBUG", "1")
    text = reading.encrypt(b"vault_postgres_password: secret-of-the-database\n", PASSWORD)
    (tmp_path / "vault.yml").write_text(text)
    (tmp_path / "vault-password").write_text(PASSWORD)
    # db01 shows another key than known_hosts says: it is not who it claims to be.
    first = next(iter(crowd.values()))
    dead = {"dead-silent": silent, "dead-refused": refused}
    path = write_inventory(tmp_path, crowd, dead, connect_timeout=2)
    changed = (
        (tmp_path / "known_hosts")
        .read_text()
        .replace(first.host_key.get_base64(), list(crowd.values())[1].host_key.get_base64(), 1)
    )
    (tmp_path / "known_hosts").write_text(changed)
    shared = first.crowd
    inventory = hosts_file.load(path)
    shared.answer = all_right(inventory, reading.load(inventory.vault))

    with pytest.raises(Exit) as ended:
        backup_hosts.install(Context(), hosts=str(path))

    assert ended.value.code == UNREACHABLE
    out, err = capsys.readouterr()
    alive = [name for name in crowd if name != "db01"]
    assert len(alive) == 97
    assert out.splitlines() == [f"{name}: nothing to change" for name in sorted(alive)]
    reports = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in reports] == ["db01", "dead-refused", "dead-silent"]
    assert "has CHANGED" in reports[0]
    assert "connection refused" in reports[1]
    assert "no SSH server answers within 2 s" in reports[2]
    # Nothing was changed: no manager is told (there is none that could be reached).
    assert "round trips: 97\n" in err
    # One connection and one command per host, and never more of them at once than allowed.
    assert [len(crowd[name].commands) for name in alive] == [1] * len(alive)
    assert [len(crowd[name].transports) for name in alive] == [1] * len(alive)
    assert 2 <= shared.busiest <= fleet.MOST_AT_ONCE


def test_many_silent_hosts_are_a_line_each_and_no_traceback(silent, tmp_path):
    # Outside pytest, which would catch what threads log.
    hosts = {f"db{i}": {"address": f"127.0.0.{i}", "port": silent, "role": "db"} for i in (1, 2)}
    with socket.create_server(("127.0.0.2", silent)):
        data = {
            "ssh": {"known_hosts": "known_hosts", "connect_timeout": 1},
            "hosts": hosts | {"manager": {"address": "192.0.2.1", "swarm": "manager"}},
            "s3_bucket_name": "test-bucket",
        }
        path = tmp_path / "hosts.yaml"
        path.write_text(yaml.safe_dump(data))
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "backup.logs", "--hosts", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == UNREACHABLE
    lines = done.stderr.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["error:", "db1"],
        ["next:", "is"],
        ["error:", "db2"],
        ["next:", "is"],
    ]
