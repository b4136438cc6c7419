"""Requests over a link that may be away: minutes cost time only. They are tried again with growing, random pauses up to a limit."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from obstore import exceptions as obs_errors

from lake.errors import StoreDown

T = TypeVar("T")
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
TELL_EVERY_S = 5.0
Waiting = Callable[[str], None]


def _tell_nobody(_: str) -> None:
    return


class LinkWait:
    """Tries requests again while a store does not answer; shared by all threads of one piece of work."""

    def __init__(self, limit_s: float, waiting: Waiting = _tell_nobody) -> None:
        """Make one.

        Args:
            limit_s: how long one request is tried again after it first failed, in seconds.
            waiting: called with a line for people, at most once in TELL_EVERY_S, while requests wait.
        """
        self._limit_s, self._waiting = limit_s, waiting
        self._lock, self._over = threading.Lock(), threading.Event()
        self._told = self._answered = float("-inf")

    def call(self, request: Callable[[], T]) -> T:
        """Make a request that may be repeated.

        Args:
            request: makes it.

        Returns:
            What it gives.

        Raises:
            StoreDown: the store did not answer for the limit, or for a reason that waiting does not mend.
        """
        began: float | None = None
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                found = request()
            except StoreDown as error:
                now = time.monotonic()
                began = now if began is None else began
                if self._over.is_set() or not may_pass(error):
                    self._over.set()
                    raise
                if now - began >= self._limit_s:
                    if (
                        self._answered < began
                    ):  # nobody's request was answered since: it is the link, not the object
                        self._over.set()
                    raise
                self._tell(error, now - began)
                self._over.wait(min(pause_s * random.uniform(0.5, 1.0), began + self._limit_s - now))  # noqa: S311
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            else:
                self._answered = time.monotonic()
                return found

    def _tell(self, error: StoreDown, waited_s: float) -> None:
        with self._lock:
            if time.monotonic() - self._told < TELL_EVERY_S:
                return
            self._told = time.monotonic()
        self._waiting(
            f"waiting for the link: {error.what}: {error.why}; tried again for {waited_s:.0f} s of {self._limit_s:.0f} s"
        )


def may_pass(error: StoreDown) -> bool:
    """Whether the same request may be answered later with nothing changed by a person: not when the store refuses us."""
    return not isinstance(error.__cause__, obs_errors.PermissionDeniedError | obs_errors.UnauthenticatedError)
