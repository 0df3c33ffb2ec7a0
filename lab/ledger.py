"""A client that never stops asking: reads, and writes of which it knows the acknowledged ones."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field

from fabfile.base.errors import SwarmkeepError
from lab import waiting
from lab.nocodb_api import NocoDB

THREADS = 10
SECOND = 1.0
TIMEOUT = 90.0
"""Seconds: longer than a proxy lets a request wait."""


@dataclass
class Ledger:
    """Ten threads, each asking ten times a second: eight reads, then two writes of a number.

    A number is written once: what was not acknowledged is not tried again. `failures` has a line
    for each request that was not answered with success; `longest` is the longest that one took,
    `gap` the longest time in which none was answered with success, both in seconds.
    """

    server: NocoDB
    host: str
    table: str
    failures: list[str] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    asked: int = 0
    longest: float = 0.0
    gap: float = 0.0
    _last: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _next: int = 0

    def __enter__(self) -> Ledger:
        self._threads = [threading.Thread(target=self._work) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def let_pass(self, requests: int = 100) -> None:
        """Wait until so many more requests have ended. Raises SwarmkeepError if they do not."""
        goal = self.asked + requests
        problem = waiting.until(
            lambda: "" if self.asked >= goal else "the client's requests do not end",
            deadline=TIMEOUT,
        )
        if problem:
            raise SwarmkeepError(problem)

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        turn = 0
        while not self._end.is_set():
            begun = time.monotonic()
            self._ask(connection, writes=turn % 10 >= 8)
            turn += 1
            self._end.wait(max(0.0, begun + SECOND / 10 - time.monotonic()))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, *, writes: bool) -> None:
        path = f"/api/v2/tables/{self.table}/records"
        headers = {"xc-auth": self.server.token, "Content-Type": "application/json"}
        number, body = 0, None
        if writes:
            with self._lock:
                self._next += 1
                number = self._next
            body = json.dumps([{"Number": number}])
        begun = time.monotonic()
        try:
            connection.request("POST" if writes else "GET", path if writes else f"{path}?limit=1",
                               body, headers)  # fmt: skip
            answer = connection.getresponse()
            said = answer.read()
            problem = "" if answer.status < 300 else f"{answer.status} {said[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            problem = repr(error)
        took = time.monotonic() - begun
        with self._lock:
            self.asked += 1
            self.longest = max(self.longest, took)
            if not problem:
                now = time.monotonic()
                self.gap = max(self.gap, now - (self._last or now))
                self._last = now
            if problem:
                word = "write" if writes else "read"
                self.failures.append(f"{time.strftime('%H:%M:%S')} {word} {took:.1f} s: {problem}")
            elif writes:
                self.acknowledged.add(number)


COLUMNS = [{"title": "Number", "column_name": "number", "uidt": "Number"}]


def numbers(server: NocoDB, table: str) -> list[int]:
    """The numbers that are in the table, each as often as it is there."""
    return sorted(int(row["Number"]) for row in server.records(table))
