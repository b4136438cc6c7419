"""Questions that take a while, asked by many viewers at once: of stores, of control services, of the lake's history.

Every question is asked once at a time, whoever waits for it; what was answered is kept for as long as the asker calls it fresh (for
ever, when it is of something that cannot change). Nobody waits longer than a limit: then the newest older answer is given, and why
there is none newer. So one control service that is down costs its own row of a page, and nothing else.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

from cacheengine.answers import body_of
from lake.errors import Explained

FOREVER = math.inf
# what failed last time is waited for so long only: it will mostly fail again, and a later request sees it when it does not
RETRY_S = 0.05
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Answer:
    """value: the newest that was got, None when there never was one; at_ns: when; problem: {kind, what, why, fix}: why none is newer.

    is_late: there is none yet only because it takes longer than the limit.
    """

    value: Any
    at_ns: int
    problem: dict[str, str] | None = None
    is_late: bool = False


@dataclass
class _Entry:
    value: Any = None
    got_s: float | None = None  # of time.monotonic
    at_ns: int = 0
    problem: dict[str, str] | None = None
    asked_s: float = 0.0
    running: Future[None] | None = None


@dataclass
class Asked:
    """What one process has asked. most: how many answers are kept; those that were not wanted for longest go first."""

    threads: int = 24
    most: int = 50_000
    _entries: OrderedDict[Hashable, _Entry] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _pool: ThreadPoolExecutor | None = None

    def ask(
        self, questions: Mapping[Key, Callable[[], Any]], fresh_s: float, limit_s: float
    ) -> dict[Key, Answer]:
        """An answer to each question: not older than `fresh_s` if it can be got within `limit_s` of being asked."""
        now = time.monotonic()
        with self._lock:
            entries = {key: self._begun(key, question, fresh_s, now) for key, question in questions.items()}
            left = [
                (entry.running, entry.asked_s - now + (limit_s if entry.problem is None else RETRY_S))
                for entry in entries.values()
                if entry.running is not None and not entry.running.done()
            ]
            while len(self._entries) > self.most:
                self._entries.popitem(last=False)
        # each for as long as it may take: who asks for what has been waited for in vain already waits no second time
        for running, seconds in left:
            wait([running], timeout=max(0.0, now + seconds - time.monotonic()))
        return {key: _answer(key, entry, limit_s) for key, entry in entries.items()}

    def has(self, key: Hashable) -> bool:
        """Whether this was asked before and is answered."""
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.got_s is not None

    def forget(self, key: Hashable) -> None:
        """Ask anew next time: we have changed what the answer is about."""
        with self._lock:
            self._entries.pop(key, None)

    def _begun(self, key: Hashable, question: Callable[[], Any], fresh_s: float, now: float) -> _Entry:
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        is_stale = entry.got_s is None or now - entry.got_s > fresh_s
        if is_stale and (entry.running is None or entry.running.done()):
            entry.asked_s = now
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="outlap-pages")
            entry.running = self._pool.submit(_run, entry, question)
        return entry


def _run(entry: _Entry, question: Callable[[], Any]) -> None:
    try:
        value = question()
    except Exception as error:  # whatever it is, it is shown in the place of the answer
        entry.problem = problem_of(error)
    else:
        entry.value, entry.problem = value, None
        entry.at_ns, entry.got_s = time.time_ns(), time.monotonic()


def _answer(key: Hashable, entry: _Entry, limit_s: float) -> Answer:
    problem = entry.problem
    is_late = problem is None and entry.running is not None and not entry.running.done()
    if is_late:
        what = " ".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
        problem = {
            "kind": "Late",
            "what": what,
            "why": f"no answer within {limit_s:g} s",
            "fix": "what was heard before is shown; it is asked again",
        }
    return Answer(entry.value, entry.at_ns, problem, is_late)


def problem_of(error: Exception) -> dict[str, str]:
    """An error as pages show it. Of one that nobody foresaw only the kind is told: its text may name what is secret."""
    if isinstance(error, Explained):
        return body_of(error)
    return {
        "kind": type(error).__name__,
        "what": "this page",
        "why": f"an error that was not foreseen ({type(error).__name__})",
        "fix": "see the log of the API server",
    }
