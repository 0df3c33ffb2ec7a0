"""A TCP proxy that adds a round trip's time: what a distant host costs, on one machine.

The kernel's own traffic shaper (netem) is often missing, so the delay is made here. Every byte
arrives half a round trip later than it was sent, whatever is under way before it: bandwidth is
not limited. Opening a connection costs the one and a half round trips that a distant server's
first byte would come later for (SYN, SYN-ACK, ACK).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

HOST = "127.0.0.1"
BLOCK = 65536
# Bytes under way in one direction of one connection, as a TCP window bounds them.
MOST_BLOCKS = 64

Address = tuple[str, int]


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    """Pass one direction on, each block `delay` seconds after it came, until its end."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_BLOCKS)

    async def deliver() -> None:
        while True:
            when, block = await under_way.get()
            await asyncio.sleep(max(0.0, when - loop.time()))
            if not block:
                target.write_eof()
                return
            target.write(block)
            await target.drain()

    async def receive() -> None:
        block = b"-"
        while block:
            block = await source.read(BLOCK)
            await under_way.put((loop.time() + delay, block))

    # A side that hangs up ends both: nobody is left to read or to write.
    async with asyncio.TaskGroup() as group:
        group.create_task(deliver())
        group.create_task(receive())


async def _connect(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: Address, delay: float
) -> None:
    """Serve one client: open the way to the server, carry both directions, close both."""
    writers = [writer]
    try:
        await asyncio.sleep(3 * delay)
        far_reader, far_writer = await asyncio.open_connection(*to)
        writers.append(far_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(_carry(reader, far_writer, delay))
            group.create_task(_carry(far_reader, writer, delay))
    except* OSError:
        # Refused or cut: the client sees its connection closed, as it would on the way there.
        pass
    except* asyncio.CancelledError:
        # The proxy ends; this is the connection's outermost frame.
        pass
    finally:
        for one in writers:
            one.close()


async def _serve(
    targets: Mapping[str, Address],
    delay: float,
    ports: Future[dict[str, int]],
    stop: asyncio.Event,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for name, to in targets.items():
            serve = functools.partial(_connect, to=to, delay=delay)
            server = await asyncio.start_server(serve, HOST, 0)
            await stack.enter_async_context(server)
            found[name] = server.sockets[0].getsockname()[1]
        ports.set_result(found)
        await stop.wait()


@contextmanager
def proxies(targets: Mapping[str, Address], round_trip: float) -> Iterator[dict[str, int]]:
    """Given name -> address, yield name -> port on loopback that leads there, for the block.

    `round_trip` is the added time in seconds. The proxy runs in a thread of its own.
    """
    ports: Future[dict[str, int]] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(_serve(targets, round_trip / 2, ports, stop))
            except Exception as error:  # noqa: BLE001 - handed to the caller's thread
                ports.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield ports.result(10)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
