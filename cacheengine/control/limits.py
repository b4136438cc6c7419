"""The outermost layer of the service: counts requests, and stops bodies that are too large before they fill memory."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cacheengine.control import metrics


def limited(app: ASGIApp, most_bytes: int) -> ASGIApp:
    """`app`, with bodies of at most `most_bytes`."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        seen, status = 0, 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most_bytes:
                raise HTTPException(413, f"it has more than {most_bytes} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, counted, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.requests.labels(route, scope["method"], str(status)).inc()

    return wrapped
