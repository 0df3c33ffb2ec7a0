"""`inv backup.install` on 100 simulated db hosts against 10, and with three dead among them.

Run as `make bench-hosts`. Goals: 100 take at most 4 times what 10 take; three dead hosts make it
at most the connect time-out longer. Timed is the fan-out (connecting, asking, closing), not
Python's start. The hosts are real SSH servers in another process, on this machine: they share
its processors with what is measured, which real hosts would not.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from bench.progress import in_turn
from fabfile.backup import host_install
from fabfile.config import hosts_file
from fabfile.ssh.fleet import connect
from fabfile.vault import reading

FEW, MANY, DEAD = 10, 100, 3
ROUNDS = 5
GOAL = 4.0
CONNECT_TIMEOUT = 2
"""Seconds."""
WORK = 0.3
"""Seconds that a host takes to look at its files: measured on the lab's db node."""
PASSWORD = "bench"  # noqa: S105 - of a vault that lives as long as the benchmark


def serve(folder: Path, live: int, ports: list[int], pipe: Connection) -> None:
    """In a process of its own: be the live hosts, write the inventory, until told to end."""
    import paramiko

    from tests.ssh.many import Crowd, SimulatedHost, all_right, write_inventory

    key = paramiko.ECDSAKey.generate()
    key.write_private_key_file(str(folder / "id"))
    crowd = Crowd("", WORK)
    hosts = {f"db{i}": SimulatedHost(crowd, key) for i in range(live)}
    # First in the file: while they keep threads busy, the living must not wait.
    dead = {f"a-dead{i}": port for i, port in enumerate(ports)}
    path = write_inventory(folder, hosts, dead, connect_timeout=CONNECT_TIMEOUT)
    known = hosts_file.load(path)
    crowd.answer = all_right(known, reading.load(known.vault))
    pipe.send(path)
    pipe.recv()


@contextmanager
def simulated(live: int, dead: int) -> Iterator[Path]:
    """A hosts file with so many live and dead db hosts, for the block."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        text = reading.encrypt(b"vault_postgres_password: bench\n", PASSWORD)
        (folder / "vault.yml").write_text(text)
        (folder / "vault-password").write_text(PASSWORD)
        # They accept and stay silent: the slowest way to be dead.
        mute = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(dead)]
        ports = [listener.getsockname()[1] for listener in mute]
        ours, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=serve, args=(folder, live, ports, theirs), daemon=True)
        process.start()
        try:
            yield ours.recv()
        finally:
            process.terminate()
            process.join()


def install(path: Path, live: int, dead: int) -> float:
    """Seconds of one installation on all hosts; raises if a host did not do as it should."""
    known = hosts_file.load(path)
    secrets = reading.load(known.vault)
    start = time.perf_counter()
    with connect(known) as fleet:
        outcomes = host_install.install(fleet, known, secrets)
    seconds = time.perf_counter() - start
    failed = sorted(outcome.entry.name for outcome in outcomes if outcome.error)
    if failed != [f"a-dead{i}" for i in range(dead)] or len(outcomes) != live + dead:
        raise RuntimeError(f"these hosts failed: {failed}")
    return seconds


def measure(live: int, dead: int = 0) -> float:
    """The median over some rounds, after one that warms up."""
    text = f"{live} hosts" + (f" and {dead} dead" if dead else "")
    with simulated(live, dead) as path:
        times = [install(path, live, dead) for _ in in_turn(range(ROUNDS + 1), text)][1:]
    median = statistics.median(times)
    print(f"{text:24} {median:6.2f} s   ({min(times):.2f} to {max(times):.2f})", flush=True)
    return median


def main() -> int:
    """Measure all three; exit code 1 if a goal is missed."""
    few, many, some_dead = measure(FEW), measure(MANY), measure(MANY - DEAD, DEAD)
    print(f"ratio                    {many / few:6.2f}     (goal: at most {GOAL:g})")
    longer = some_dead - many
    print(f"longer with {DEAD} dead      {longer:6.2f} s   (goal: at most {CONNECT_TIMEOUT} s)")
    return int(many / few > GOAL or longer > CONNECT_TIMEOUT)


if __name__ == "__main__":
    sys.exit(main())
