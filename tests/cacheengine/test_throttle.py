"""The cap on what a node fetches a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cacheengine.fetching import throttle
from cacheengine.fetching.throttle import BURST_S, paced


class Clock:
    """A clock that only waiting moves, and an event that waits on it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(throttle, "time", made)
    yield made


def test_the_rate_is_kept(clock: Clock) -> None:
    wait = paced(lambda: 1000.0, clock)  # type: ignore[arg-type]
    for _ in range(50):
        wait(100)
    assert clock.now - 100.0 == pytest.approx(5.0, abs=BURST_S + 0.2)


def test_a_pause_is_used_only_for_a_moment(clock: Clock) -> None:
    wait = paced(lambda: 1000.0, clock)  # type: ignore[arg-type]
    clock.now += 1000
    before = clock.now
    for _ in range(50):
        wait(100)
    assert clock.now - before >= 5.0 - BURST_S - 0.2


def test_no_cap_waits_for_nothing_and_a_cap_may_come_later(clock: Clock) -> None:
    rate: list[float | None] = [None]
    wait = paced(lambda: rate[0], clock)  # type: ignore[arg-type]
    wait(10**12)
    assert clock.now == 100.0
    rate[0] = 10.0
    wait(100)
    wait(100)
    assert clock.now >= 109.0


def test_threads_share_it_and_a_stop_ends_the_waiting() -> None:
    stop, waiting = threading.Event(), threading.Barrier(5)
    wait = paced(lambda: 0.001, stop)

    def one() -> None:
        waiting.wait()
        wait(10)

    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(one) for _ in range(4)]
        waiting.wait()
        stop.set()
        assert [end.result(timeout=60) for end in ends] == [None] * 4
