"""What the deploy benchmark stands on: the delaying proxy, the goals' arithmetic."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.deploy import table
from bench.deploy.delay_proxy import proxies
from bench.deploy.table import AGAIN, GOALS, ROWS, Goal
from bench.deploy.tools import TOOLS

ROUND_TRIP = 0.1


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that greets and then sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(client: socket.socket) -> None:
        with client:
            client.sendall(b"hello")
            while data := client.recv(65536):
                client.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def read_all(client: socket.socket) -> bytes:
    found = b""
    while data := client.recv(65536):
        found += data
    return found


def test_each_way_is_delayed_and_nothing_is_lost(echo):
    body = bytes(range(256)) * 4000
    with proxies({"one": echo}, ROUND_TRIP) as ports:
        start = time.monotonic()
        client = socket.create_connection(("127.0.0.1", ports["one"]), timeout=20)
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        assert time.monotonic() - start >= 2 * ROUND_TRIP - 0.001
        start = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert time.monotonic() - start >= ROUND_TRIP - 0.001
        sender = threading.Thread(
            target=lambda: (client.sendall(body), client.shutdown(socket.SHUT_WR))
        )
        sender.start()
        assert read_all(client) == body
        sender.join(20)
        client.close()


def test_server_that_refuses_is_a_closed_connection(echo):
    free = socket.create_server(("127.0.0.1", 0))
    address = free.getsockname()
    free.close()
    with proxies({"gone": address, "there": echo}, 0.0) as ports:
        with socket.create_connection(("127.0.0.1", ports["gone"]), timeout=20) as client:
            assert client.recv(1) == b""
        with socket.create_connection(("127.0.0.1", ports["there"]), timeout=20) as client:
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"


def times(**medians: float) -> dict[tuple[str, str], list[float]]:
    """Every row of the table with the same seconds; spaces of names as underscores."""
    return {
        (row, tool.name): [0.1, medians[tool.name.replace(" ", "_")], 99.0]
        for row in ROWS
        for tool in TOOLS
    }


def test_goals_are_reached_and_missed():
    good = times(swarmkeep=1.0, ansible=6.0, pyinfra=1.5, plain_ssh=0.5)
    assert all(goal.verdict(good)[0] for goal in GOALS)
    bad = times(swarmkeep=1.1, ansible=5.0, pyinfra=1.0, plain_ssh=0.5)
    assert not any(goal.verdict(bad)[0] for goal in GOALS)
    assert Goal(AGAIN, "plain ssh", 0.5).verdict(bad)[1].endswith("plain ssh: 2.20")


def test_table_shows_medians_and_ratios_and_who_waits():
    text = table.render(times(swarmkeep=2.0, ansible=13.0, pyinfra=3.0, plain_ssh=1.0))
    unchanged = next(line for line in text.splitlines() if line.startswith("unchanged  "))
    assert unchanged.split("  ")[-4:] == text.splitlines()[3].split("  ")[-4:]
    for cell in ("2.00 s", "13.00 s (6.5x)", "3.00 s (1.5x)", "1.00 s (0.5x)"):
        assert cell in unchanged
    assert text.splitlines()[-1].split()[-4:] == ["yes", "no", "no", "no"]
