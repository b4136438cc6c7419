"""Waiting for an event, or so long."""

from __future__ import annotations

import asyncio


async def heard(event: asyncio.Event, seconds: float) -> None:
    """Until the bell rings, or so long."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    except TimeoutError:
        return
