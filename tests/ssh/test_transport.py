"""The transport against a real SSH server: keys, faults, stdin, sudo, files, many hosts."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import paramiko
import pytest

from fabfile.base.errors import SwarmkeepError, UnreachableError
from fabfile.config.inventory import HostEntry, Inventory
from fabfile.ssh.fleet import connect, values
from fabfile.ssh.remote_command import Command, RemoteFile

ME = __import__("getpass").getuser()


def entry(name: str, port: int, address: str = "127.0.0.1") -> HostEntry:
    return HostEntry(name, address, port, "root", "worker", "db", name)


def run(inventory: Inventory, script: str, stdin: bytes = b"", **fleet):
    with connect(inventory, **fleet) as hosts:
        return hosts.host(inventory.hosts[0]).run(Command(script, stdin))


def failure(inventory: Inventory) -> UnreachableError:
    with pytest.raises(UnreachableError) as caught:
        run(inventory, "true")
    return caught.value


def test_output_exit_code_and_stdin_arrive_whole(server, make_inventory):
    big = os.urandom(3_000_000)
    result = run(make_inventory(server), "sha256sum; echo err >&2; exit 7", big)
    import hashlib

    assert result.stdout.split()[0] == hashlib.sha256(big).hexdigest()
    assert result.stderr == "err\n"
    assert result.exit_code == 7


def test_stdin_never_shows_in_the_command(server, make_inventory):
    run(make_inventory(server), "cat >/dev/null", b"hunter2-secret")
    assert "hunter2-secret" not in "".join(server.commands)


def test_command_that_ignores_its_stdin_is_no_error(server, make_inventory):
    assert run(make_inventory(server), "exit 0", b"x" * 5_000_000).exit_code == 0


def test_unknown_host_key_is_refused_and_names_file_and_command(server, make_inventory, tmp_path):
    inventory = make_inventory(server, known=False)
    error = failure(inventory)
    assert "unknown host key" in error.message
    assert str(tmp_path / "known_hosts") in error.message
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {tmp_path / 'known_hosts'}" in error.hint
    assert server.commands == []


def test_known_hosts_without_this_host_is_refused_too(server, make_server, make_inventory):
    inventory = make_inventory(server, make_server())
    lines = inventory.ssh.known_hosts.read_text().splitlines()
    inventory.ssh.known_hosts.write_text(lines[1] + "\n")
    assert "unknown host key" in failure(inventory).message


def test_changed_host_key_is_refused_and_says_so(server, make_inventory):
    inventory = make_inventory(server)
    other = paramiko.ECDSAKey.generate()
    inventory.ssh.known_hosts.write_text(
        f"[127.0.0.1]:{server.port} {other.get_name()} {other.get_base64()}\n"
    )
    error = failure(inventory)
    assert "CHANGED" in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in error.hint
    assert server.commands == []


def test_wrong_key_is_refused(server, make_inventory, tmp_path):
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "other"))
    error = failure(make_inventory(server, key="other"))
    assert "refused the login of user 'root'" in error.message
    assert str(tmp_path / "other") in error.message


def test_wrong_user_is_refused(make_server, make_inventory):
    error = failure(make_inventory(make_server(user="somebody")))
    assert "refused the login of user 'root'" in error.message


def test_missing_key_file_is_named(server, make_inventory, tmp_path):
    error = failure(make_inventory(server, key="gone"))
    assert str(tmp_path / "gone") in error.message


def test_encrypted_key_points_to_the_agent(server, make_inventory, tmp_path):
    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(tmp_path / "locked"), password="pw")
    error = failure(make_inventory(server, key="locked"))
    assert "encrypted" in error.message
    assert "ssh-add" in error.hint


def test_closed_port(server, make_inventory):
    inventory = make_inventory(server)
    server.close()
    error = failure(inventory)
    assert error.message == f"host1 (127.0.0.1:{server.port}): connection refused"
    assert error.exit_code == 3


def test_host_that_accepts_and_stays_silent(make_inventory, server, tmp_path):
    inventory = make_inventory(server, connect_timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_entry = entry("mute", silent.getsockname()[1])
        started = time.monotonic()
        with connect(inventory) as fleet, pytest.raises(UnreachableError) as caught:
            fleet.host(silent_entry)
    assert "mute" in caught.value.message
    assert "no SSH server answers" in caught.value.message
    assert time.monotonic() - started < 10


def test_unresolvable_name(make_inventory, server):
    with connect(make_inventory(server)) as fleet, pytest.raises(UnreachableError) as caught:
        fleet.host(entry("lost", 22, "no-such-host.invalid"))
    assert "cannot be resolved" in caught.value.message


def test_host_that_goes_away_in_the_middle_of_a_command(server, make_inventory, tmp_path):
    inventory = make_inventory(server)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def cut_when_running() -> None:
        with fifo.open("wb"):
            server.drop_connections()

    threading.Thread(target=cut_when_running, daemon=True).start()
    with pytest.raises(UnreachableError) as caught:
        run(inventory, f"cat {fifo}; sleep 60")
    assert "connection was lost" in caught.value.message
    assert "run again" in caught.value.hint


def test_command_that_says_nothing_is_given_up(server, make_inventory):
    inventory = make_inventory(server)
    with connect(inventory) as fleet, pytest.raises(UnreachableError) as caught:
        fleet.host(inventory.hosts[0]).run(Command("exec sleep 60"), timeout=1)
    assert "said nothing for 1 s" in caught.value.message


def test_lines_arrive_while_the_command_runs(server, make_inventory, tmp_path):
    inventory = make_inventory(server)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line == "one":
            gate.write_text("go")

    with connect(inventory) as fleet:
        fleet.host(inventory.hosts[0]).run(
            Command(f"echo one; cat {gate} >/dev/null; printf two"), on_line=on_line
        )
    assert lines == ["one", "two"]


def test_dry_runs_what_reads_and_shows_what_changes(server, make_inventory, tmp_path):
    inventory = make_inventory(server)
    shown: list[str] = []
    with connect(inventory, dry=True, echo=shown.append) as fleet:
        host = fleet.host(inventory.hosts[0])
        assert host.run(Command("echo read", changes=False)).stdout == "read\n"
        host.run(Command(f"touch {tmp_path}/made", stdin=b"secret"))
    assert not (tmp_path / "made").exists()
    assert shown == [f"[host1] touch {tmp_path}/made"]


def test_round_trips_are_counted(server, make_inventory):
    inventory = make_inventory(server)
    with connect(inventory) as fleet:
        host = fleet.host(inventory.hosts[0])
        host.run(Command("true"))
        host.write_files([])
        assert fleet.round_trips == 2


def test_files_are_written_atomically_and_only_when_different(server, make_inventory, tmp_path):
    inventory = make_inventory(server)
    path = tmp_path / "a $(touch pwned) 'b'" / "file"
    wanted = RemoteFile(str(path), b"\x00binary\n$(x)", 0o600, ME)
    with connect(inventory) as fleet:
        host = fleet.host(inventory.hosts[0])
        assert host.write_files([wanted]) == {str(path): True}
        inode = path.stat().st_ino
        assert host.write_files([wanted]) == {str(path): False}
        assert path.stat().st_ino == inode
        path.chmod(0o644)
        assert host.write_files([wanted]) == {str(path): True}
    assert path.read_bytes() == wanted.content
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert not Path("pwned").exists()


def test_a_file_that_cannot_be_written_leaves_nothing(server, make_inventory, tmp_path):
    inventory = make_inventory(server)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "target").mkdir()
    (tmp_path / "dir" / "target" / "x").write_text("in the way")
    with connect(inventory) as fleet, pytest.raises(SwarmkeepError) as caught:
        fleet.host(inventory.hosts[0]).write_files([RemoteFile("/proc/no/such", b"x", 0o600, ME)])
    assert "host1: writing files failed" in caught.value.message


def test_many_hosts_one_dead_others_answer(make_server, make_inventory):
    servers = [make_server() for _ in range(4)]
    inventory = make_inventory(*servers)
    servers[1].close()
    with connect(inventory) as fleet:
        outcomes = fleet.fan_out(
            inventory.hosts, lambda host: host.run(Command(f"echo {host.name}")).stdout
        )
        assert [o.value for o in outcomes] == ["host1\n", None, "host3\n", "host4\n"]
        assert "host2" in str(outcomes[1].error)
        with pytest.raises(UnreachableError):
            values(outcomes)


def test_second_manager_serves_when_the_first_is_away(make_server, make_inventory):
    servers = [make_server(), make_server()]
    inventory = make_inventory(*servers)
    servers[0].close()
    with connect(inventory) as fleet:
        assert fleet.first_manager().name == "host2"


def test_no_manager_names_them_all(make_server, make_inventory):
    servers = [make_server(), make_server()]
    inventory = make_inventory(*servers)
    for one in servers:
        one.close()
    with connect(inventory) as fleet, pytest.raises(UnreachableError) as caught:
        fleet.first_manager()
    assert [d.split()[0] for d in caught.value.details] == ["host1", "host2"]


def test_through_a_gateway(make_server, make_inventory, tmp_path):
    target, hop = make_server(), make_server()
    inventory = make_inventory(target, gateway={"address": "127.0.0.1", "port": hop.port})
    with inventory.ssh.known_hosts.open("a") as file:
        key = hop.host_key
        file.write(f"[127.0.0.1]:{hop.port} {key.get_name()} {key.get_base64()}\n")
    assert run(inventory, "echo there").stdout == "there\n"
    assert hop.forwarded == [("127.0.0.1", target.port)]
    assert hop.commands == []


def test_gateway_with_unknown_key_is_refused(make_server, make_inventory):
    target, hop = make_server(), make_server()
    inventory = make_inventory(target, gateway={"address": "127.0.0.1", "port": hop.port})
    error = failure(inventory)
    assert error.message.startswith(f"gateway (127.0.0.1:{hop.port}): unknown host key")
    assert target.commands == []


def test_target_unreachable_behind_the_gateway(make_server, make_inventory):
    target, hop = make_server(), make_server()
    inventory = make_inventory(target, hop, gateway={"address": "127.0.0.1", "port": hop.port})
    target.close()
    assert "host1" in failure(inventory).message


FAKE_SUDO = """#!/bin/sh
# Behaves as sudo -k -S -p PROMPT -- COMMAND does for a user with the password "open sesame".
prompt=
while [ $# -gt 0 ]; do
  case $1 in
    -p) prompt=$2; shift 2 ;;
    --) shift; break ;;
    *) shift ;;
  esac
done
case $SUDO_MODE in
  nopasswd) exec "$@" ;;
  denied) echo "somebody is not in the sudoers file." >&2; exit 1 ;;
esac
for try in 1 2 3; do
  printf %s "$prompt" >&2
  IFS= read -r given || break
  [ "$given" = "open sesame" ] && exec "$@"
  echo "Sorry, try again." >&2
done
echo "sudo: 3 incorrect password attempts" >&2
exit 1
"""


@pytest.fixture
def sudo_inventory(make_server, make_inventory, tmp_path, monkeypatch):
    def make(mode: str = "password") -> Inventory:
        monkeypatch.setenv("SUDO_MODE", mode)
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "sudo").write_text(FAKE_SUDO)
        (folder / "sudo").chmod(0o755)
        return make_inventory(make_server(path=folder), become=True)

    return make


def test_sudo_password_and_stdin_keep_apart(sudo_inventory):
    result = run(sudo_inventory(), "cat", b"for the command\n", sudo_password="open sesame")
    assert (result.stdout, result.stderr, result.exit_code) == ("for the command\n", "", 0)


def test_sudo_without_need_for_a_password_does_not_leak_it_into_stdin(sudo_inventory):
    result = run(sudo_inventory("nopasswd"), "cat", b"data", sudo_password="open sesame")
    assert result.stdout == "data"


def test_sudo_wrong_password_gets_no_secret(sudo_inventory):
    with pytest.raises(UnreachableError) as caught:
        run(sudo_inventory(), "cat", b"the secret", sudo_password="wrong")
    assert "sudo refused the password" in caught.value.message


def test_sudo_password_missing(sudo_inventory):
    with pytest.raises(UnreachableError) as caught:
        run(sudo_inventory(), "true")
    assert "wants a password" in caught.value.message
    assert "--prompt-for-sudo-password" in caught.value.hint


def test_sudo_denied_says_what_sudo_said(sudo_inventory):
    with pytest.raises(UnreachableError) as caught:
        run(sudo_inventory("denied"), "true", sudo_password="open sesame")
    assert "not in the sudoers file" in caught.value.message
