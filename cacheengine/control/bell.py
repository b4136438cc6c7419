"""Wakes long polls of this process. Changes by another replica are found by looking again every `poll_s`."""

from __future__ import annotations

import asyncio


class Bell:
    """`ring` from any thread; `wait` in the event loop. Made inside the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return  # the loop is closed: the service ends and nobody waits

    def _wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """Take it before looking, wait on it after: what changes between is not missed."""
        return self._event


async def heard(event: asyncio.Event, seconds: float) -> None:
    """Until the bell rings, or so long."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    except TimeoutError:
        return
