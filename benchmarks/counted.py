"""A proxy before a store that counts what passes: requests, and bytes of both ways, headers included."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

PIECE = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


@dataclass
class Count:
    """What went to the store and back. endpoint: of the proxy."""

    endpoint: str
    requests: int = 0
    bytes: int = 0

    def taken(self) -> tuple[int, int]:
        """(requests, bytes) since the last call."""
        found = self.requests, self.bytes
        self.requests = self.bytes = 0
        return found


async def _send(count: Count, data: bytes, out: asyncio.StreamWriter) -> None:
    count.bytes += len(data)
    out.write(data)
    await out.drain()


async def _requests(count: Count, client: asyncio.StreamReader, store: asyncio.StreamWriter) -> None:
    """Requests one after the other, as HTTP/1.1 keeps them: head, then as many bytes as it says."""
    while True:
        head = await client.readuntil(b"\r\n\r\n")
        count.requests += 1
        await _send(count, head, store)
        found = _LENGTH.search(head)
        left = int(found[1]) if found else 0
        while left:
            data = await client.read(min(PIECE, left))
            if not data:
                return
            left -= len(data)
            await _send(count, data, store)


async def _answers(count: Count, store: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    while data := await store.read(PIECE):
        await _send(count, data, client)


@contextmanager
def counting(endpoint: str) -> Iterator[Count]:
    """A proxy on a port of its own before this endpoint (http://host:port)."""
    host, _, port = urlsplit(endpoint).netloc.partition(":")
    loop, ready = asyncio.new_event_loop(), threading.Event()
    count = Count("")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, int(port))
        ends = (_requests(count, reader, ours), _answers(count, theirs, writer))
        tasks = [asyncio.ensure_future(end) for end in ends]
        with suppress(asyncio.CancelledError):  # at the end
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
                await task  # a connection that one side has ended
        for end in (ours, writer):
            end.close()

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        count.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()

    def run() -> None:
        loop.create_task(serve())
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield count
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
