"""How fast a store is and who is far slower: time is counted once however many requests run, and nobody as fast as us is too slow.
Who is to blame for a slow answer: not a peer when all are slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.fetching import pace
from cacheengine.fetching.pace import Meter, Senders, is_far_slower, is_to_blame


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
    assert pace.rate(meter) == 500 / (5 + pace.BURST_S)  # 10 to 14, 20 to 21


def test_what_was_long_ago_counts_less_and_nothing_is_no_measure() -> None:
    assert pace.rate(Meter()) is None
    meter = Meter(busy_s=pace.KEPT_S + 1, bytes=1000)
    with pace.request(meter):
        pass
    assert (meter.busy_s < pace.KEPT_S, meter.bytes) == (True, 500)


@given(size=st.integers(1, 1 << 30), busy=st.floats(0, 1), still=st.floats(0, pace.FAR - 0.001))
def test_a_peer_that_stands_still_for_a_moment_is_not_left_out_for_a_short_burst_of_ours(
    size: int, busy: float, still: float
) -> None:
    """What we took in the burst is as much as it has under way."""
    assert not is_far_slower(0, still, size, pace.rate(Meter(busy_s=busy, bytes=size)))
    assert is_far_slower(0, pace.FAR * 2.001, size, pace.rate(Meter(busy_s=1, bytes=size)))


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


@given(
    count=st.integers(0, 1 << 24),
    seconds=st.floats(pace.ANSWER_S, 600),
    ago=st.floats(0, 600),
    bps=st.floats(0, 1e10),
)
def test_a_sender_is_to_blame_when_somebody_else_is_far_faster_or_nobody_else_is_known(
    count: int, seconds: float, ago: float, bps: float
) -> None:
    now = 1000.0
    own = Senders(ended={"it": (now, bps)}, begun={"it": [now - seconds] * 2})
    assert is_to_blame(own, "it", count, now - seconds, now)
    other = Senders(ended=own.ended | {"": (now - ago, bps)}, begun=own.begun)
    if now - ago >= now - seconds:
        expected = bps > pace.FAR * count / seconds
    else:
        expected = now - ago < now - pace.OUT_S or bps >= pace.LEAST_BPS
    assert is_to_blame(other, "it", count, now - seconds, now) == expected


@given(waited=st.floats(0, 600))
def test_a_sender_is_not_to_blame_when_others_are_waited_for_as_long(waited: float) -> None:
    senders = Senders(begun={"it": [400.0], "other": [1000.0 - waited]})
    assert is_to_blame(senders, "it", 1000, 400.0, 1000.0) == (1000.0 - waited > 1000.0 - pace.ANSWER_S)
    # one who was fast meanwhile speaks louder
    senders.ended["third"] = (999.0, 1e9)
    assert is_to_blame(senders, "it", 1000, 400.0, 1000.0)


def test_answers_are_measured_by_bytes_that_came_since_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 12.0, 13.0, 20.0, 26.0, 30.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    senders = Senders()
    with pace.sending(senders, "it", lambda: pace.MEASURED):
        assert senders.begun == {"it": [10.0]}
    assert senders.ended == {"it": (12.0, pace.MEASURED / 2)}
    with pace.sending(senders, "it", lambda: 1000):  # short: no measure
        pass
    assert senders.ended == {"it": (12.0, pace.MEASURED / 2)}
    with pytest.raises(TimeoutError), pace.sending(senders, "it", lambda: 600):
        raise TimeoutError
    assert (senders.ended, senders.begun) == ({"it": (26.0, 100.0)}, {})


def test_what_came_since_a_mark_counts_answers_under_way_and_busy_seconds_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, came = 10.0, 0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    senders = Senders()
    before = pace.mark(senders)
    with pace.sending(senders, "one", lambda: came):
        now, came = 12.0, pace.MEASURED - 1
        assert pace.rate_since(senders, before) is None
        with pace.sending(senders, "other", lambda: 1000):
            now = 14.0
            assert pace.rate_since(senders, before) == (came + 1000) / (4 + pace.BURST_S)
    now = 100.0  # nothing came: no time to count
    assert pace.rate_since(senders, before) == (came + 1000) / (4 + pace.BURST_S)
    assert pace.rate_since(senders, pace.mark(senders)) is None
    assert pace.mark(senders).bytes == came + 1000
