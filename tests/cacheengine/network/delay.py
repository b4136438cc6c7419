"""A proxy on a host of the network that keeps each byte for a while, both ways: distance, where the kernel has no netem."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmarks import namespaces
from benchmarks.namespaces import Host

PIECE = 256 << 10
QUEUED = 256


@dataclass
class Passed:
    """What went through, both ways."""

    bytes: int = 0


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, passed: Passed
) -> None:
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED)

    async def send() -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.close()
                return
            passed.bytes += len(data)
            writer.write(data)
            await writer.drain()

    sender = asyncio.ensure_future(send())
    with suppress(OSError):
        while data := await reader.read(PIECE):
            await pieces.put((loop.time() + delay_s, data))
    await pieces.put((loop.time() + delay_s, b""))
    with suppress(OSError):
        await sender


@contextmanager
def delaying(host: Host, port: int, target: tuple[str, int], delay_s: float) -> Iterator[Passed]:
    """Listens on `port` of the host; who connects talks to target (address, port)."""
    loop, ready, passed = asyncio.new_event_loop(), threading.Event(), Passed()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, ours = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _pass_on(reader, ours, delay_s, passed), _pass_on(theirs, writer, delay_s, passed)
        )

    async def serve() -> None:
        await asyncio.start_server(connected, host.address, port)
        ready.set()

    def run() -> None:
        with namespaces.on(host):  # this thread opens all its sockets there
            loop.create_task(serve())
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield passed
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
