"""How fast a store is and who is far slower: time is counted once however many requests run, and nobody as fast as us is too slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.fetching import pace
from cacheengine.fetching.pace import Meter, is_far_slower


def test_requests_at_once_share_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 13.0, 14.0, 20.0, 21.0, 30.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    meter = Meter()
    with pace.request(meter):
        with pace.request(meter):
            pace.add(meter, 300)
        pace.add(meter, 100)
    with pace.request(meter):
        pace.add(meter, 100)
    assert pace.rate(meter) == 500 / 5  # 10 to 14, 20 to 21


def test_what_was_long_ago_counts_less_and_nothing_is_no_measure() -> None:
    assert pace.rate(Meter()) is None
    meter = Meter(busy_s=pace.KEPT_S + 1, bytes=1000)
    with pace.request(meter):
        pass
    assert (meter.busy_s < pace.KEPT_S, meter.bytes) == (True, 500)


@given(
    ours=st.floats(1, 1e10),
    seconds=st.floats(0, 1e4),
    share=st.floats(1 / 8 + 0.001, 10),
    batch=st.integers(0, 1 << 30),
)
def test_who_is_not_eight_times_slower_is_never_left_out(
    ours: float, seconds: float, share: float, batch: int
) -> None:
    """A peer's count may lack a whole batch that is under way."""
    gained = max(0, int(ours * share * seconds) - batch)
    assert not is_far_slower(gained, seconds, batch + 1, ours)


@given(ours=st.floats(1e5, 1e10), batch=st.integers(0, 1 << 30))
def test_who_stands_still_is_left_out_in_the_end(ours: float, batch: int) -> None:
    assert is_far_slower(0, pace.LOOK_S + pace.FAR * (batch + 1) / ours, batch, ours)
    assert not is_far_slower(0, 1e9, batch, None)
