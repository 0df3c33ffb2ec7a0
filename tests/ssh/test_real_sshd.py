"""OpenSSH's own server and agent: accounts that cannot run commands, jumps, encrypted keys."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from fabfile.base.errors import UNREACHABLE, SwarmkeepError
from fabfile.config import hosts_file
from fabfile.config.inventory import Inventory
from fabfile.ssh.fleet import connect
from fabfile.ssh.remote_command import Command

pytestmark = pytest.mark.thorough

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
DEADLINE = 20.0


def keygen(path: Path, password: str = "") -> None:
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", password, "-C", "", "-f", str(path)]
    subprocess.run(words, check=True)


@dataclass(frozen=True)
class Sshd:
    """A server on loopback."""

    port: int
    host_key: str

    @property
    def known(self) -> str:
        """Its line in known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.host_key}\n"


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Starts servers that let the key in `id` in, with further lines of configuration."""
    assert SSHD, "openssh-server is missing: make test installs it"
    started: list[subprocess.Popen[bytes]] = []
    keygen(tmp_path / "id")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)

    def start(*lines: str, authorized: str = "id.pub") -> Sshd:
        folder = tmp_path / f"sshd{len(started)}"
        folder.mkdir()
        keygen(folder / "host")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = [
            f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", "PidFile none",
            f"AuthorizedKeysFile {tmp_path}/{authorized}", "StrictModes no", "UsePAM no",
            "PermitRootLogin yes", "PasswordAuthentication no", "Subsystem sftp internal-sftp",
            *lines,
        ]  # fmt: skip
        (folder / "config").write_text("\n".join(config) + "\n")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log,
            )  # fmt: skip
        started.append(process)
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "sshd does not listen"
            time.sleep(0.02)
        return Sshd(port, (folder / "host.pub").read_text().strip())

    yield start
    for process in started:
        process.terminate()
        process.wait(DEADLINE)


def inventory(tmp_path: Path, *servers: Sshd, host=None, **ssh) -> Inventory:
    """The last server as the one host; the keys of all are known."""
    (tmp_path / "known_hosts").write_text("".join(server.known for server in servers))
    entry = {"address": "127.0.0.1", "port": servers[-1].port, "swarm": "manager", "role": "db"}
    data = {
        "ssh": {
            "user": getpass.getuser(), "key": "id", "known_hosts": "known_hosts",
            "connect_timeout": 10, **ssh,
        },
        "hosts": {"h": {**entry, **(host or {})}},
        "s3_bucket_name": "test-bucket",
    }  # fmt: skip
    path = tmp_path / "hosts.yaml"
    path.write_text(yaml.safe_dump(data))
    return hosts_file.load(path)


def run(known: Inventory, script: str = "echo works; echo aside >&2") -> tuple[str, str]:
    with connect(known) as fleet:
        result = fleet.host(known.hosts[0]).run(Command(script), timeout=DEADLINE)
    assert result.exit_code == 0, result
    return result.stdout, result.stderr


def refusal(known: Inventory) -> SwarmkeepError:
    with pytest.raises(SwarmkeepError) as caught:
        run(known)
    assert caught.value.exit_code == UNREACHABLE
    assert caught.value.hint
    return caught.value


def test_a_command_runs(sshd, tmp_path):
    assert run(inventory(tmp_path, sshd())) == ("works\n", "aside\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("internal-sftp", "sftp connections only"),
        ("/usr/sbin/nologin", "not available"),
        ("/bin/false", "exit code 1"),
        ("/bin/true", "exit code 0"),
        ("echo Welcome to the appliance", "Welcome to the appliance"),
    ],
)
def test_an_account_that_cannot_run_commands_is_told_as_such(sshd, tmp_path, command, said):
    """Seen: "installing the backup failed: ... next: is its disk full or read-only?"."""
    error = refusal(inventory(tmp_path, sshd(f"ForceCommand {command}")))
    assert "the account cannot run commands there" in error.message
    assert said in error.message
    assert "login shell" in error.hint
    assert "disk" not in error.hint


def test_a_command_that_is_killed_at_once_is_no_wrong_account(sshd, tmp_path):
    error = refusal(inventory(tmp_path, sshd("ForceCommand kill -9 $$")))
    assert "killed before it began" in error.message
    assert error.hint == "run the same again"


def test_what_a_login_script_prints_is_no_output(sshd, tmp_path):
    chatty = 'ForceCommand echo "Last login: never"; eval "$SSH_ORIGINAL_COMMAND"'
    assert run(inventory(tmp_path, sshd(chatty))) == ("works\n", "aside\n")


def test_two_jumps_of_ssh_config_are_passed_in_their_order(sshd, tmp_path):
    """Fabric would pass them the other way round. Only the last one lets through to the target."""
    target = sshd()
    second = sshd(f"PermitOpen 127.0.0.1:{target.port}")
    first = sshd(f"PermitOpen 127.0.0.1:{second.port}")
    (tmp_path / "config").write_text(
        "Host target\n  HostName 127.0.0.1\n"
        f"  ProxyJump one,two\n  Port {target.port}\n"
        f"Host one\n  HostName 127.0.0.1\n  Port {first.port}\n"
        f"Host two\n  HostName 127.0.0.1\n  Port {second.port}\n"
        f"Host *\n  IdentityFile {tmp_path}/id\n  IdentitiesOnly yes\n  User {getpass.getuser()}\n"
    )
    known = inventory(
        tmp_path, first, second, target, host={"address": "target", "port": None},
        config="config", key=None, user=None,
    )  # fmt: skip
    assert run(known) == ("works\n", "aside\n")
    # Every one of them is verified.
    (tmp_path / "known_hosts").write_text(first.known + target.known)
    error = refusal(known)
    assert "jump host two" in error.message
    assert "unknown host key" in error.message


@pytest.fixture
def agent(monkeypatch) -> Iterator[None]:
    """An agent of its own, without keys."""
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    found = dict(
        part.partition("=")[::2] for part in said.replace("\n", " ").split(";") if "=" in part
    )
    values = {name.strip(): value for name, value in found.items()}
    monkeypatch.setenv("SSH_AUTH_SOCK", values["SSH_AUTH_SOCK"])
    yield
    os.kill(int(values["SSH_AGENT_PID"]), 15)


@pytest.mark.parametrize("with_pub", [True, False])
def test_an_encrypted_key_that_the_agent_holds_is_used(
    sshd, tmp_path, agent, with_pub, monkeypatch
):
    keygen(tmp_path / "locked", "a passphrase")
    known = inventory(tmp_path, sshd(authorized="locked.pub"), key="locked")
    shutil.copy(tmp_path / "locked.pub", tmp_path / "kept.pub")
    error = refusal(known)
    assert "is encrypted, and no SSH agent holds any key" in error.message
    assert f"ssh-add {tmp_path}/locked" in error.hint
    assert "hosts.yaml" not in error.hint
    subprocess.run(["ssh-add", "-q", str(tmp_path / "id")], check=True)
    assert "the SSH agent does not hold it" in refusal(known).message
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho a passphrase\n")
    ask.chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(ask))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    subprocess.run(
        ["ssh-add", "-q", str(tmp_path / "locked")], check=True, stdin=subprocess.DEVNULL
    )
    if not with_pub:
        (tmp_path / "sshd0").joinpath("x").touch()
        known = inventory(tmp_path, sshd(authorized="kept.pub"), key="locked")
        (tmp_path / "locked.pub").unlink()
    assert run(known) == ("works\n", "aside\n")
