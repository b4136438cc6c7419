"""Circuit breaker of one peer, as a pure function over its record: closed → open after failures in a row → half-open → closed.

While it is open nobody asks the peer; when its time is over one request tries (half-open), and its outcome decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "half-open", "open"]

RANK: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}
FAILURES = 3
OPEN_S = 2.0
OPEN_MOST_S = 60.0


@dataclass(frozen=True)
class Breaker:
    """failures: in a row. until: no request before that (monotonic seconds). trying: the half-open request is under way."""

    failures: int = 0
    until: float = 0.0
    trying: bool = False


def state(breaker: Breaker, now: float) -> State:
    if breaker.failures < FAILURES:
        return "closed"
    return "half-open" if breaker.trying or now >= breaker.until else "open"


def admit(breaker: Breaker, now: float) -> Breaker | None:
    """The breaker once a request is on its way; None when the peer must not be asked now."""
    found = state(breaker, now)
    if found == "closed":
        return breaker
    if found == "open" or breaker.trying:
        return None
    return Breaker(breaker.failures, breaker.until, trying=True)


def succeeded(breaker: Breaker) -> Breaker:
    return Breaker()


def failed(breaker: Breaker, now: float) -> Breaker:
    """Each try that fails after the breaker opened doubles the time until the next one, up to OPEN_MOST_S.

    Requests that were under way together when it opened are one failure of the peer, not many.
    """
    if state(breaker, now) == "open":
        return breaker
    failures = breaker.failures + 1
    wait = min(OPEN_MOST_S, OPEN_S * 2.0 ** min(16, max(0, failures - FAILURES)))
    return Breaker(failures, now + wait if failures >= FAILURES else 0.0)
