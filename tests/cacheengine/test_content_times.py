"""The time of a file in a view is a pure function of its content id."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.content_times import EARLIEST_S, SPAN_S, content_times

ID = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.mark.fault("A8")
@given(st.lists(ID, max_size=50), st.integers(0, 50))
def test_times_follow_from_content_ids_alone_however_they_are_cut(ids: list[str], cut: int) -> None:
    times = content_times(pa.array(ids, pa.string())).tolist()
    assert times == [EARLIEST_S + int(one[:8], 16) % SPAN_S for one in ids]
    chunked = pa.chunked_array([pa.array(ids[:cut], pa.string()), pa.array(ids[cut:], pa.string())])
    assert content_times(chunked).tolist() == times
    assert content_times(pa.array(ids, pa.string()).slice(min(cut, len(ids)))).tolist() == times[cut:]
    # zip takes them, 32-bit clocks too, and none lies in the future
    assert all(315_532_800 <= at < 1_577_836_800 for at in times)


@pytest.mark.parametrize("wrong", ["", "abc", "g" * 64, None])
def test_what_is_no_content_id_is_refused(wrong: str | None) -> None:
    with pytest.raises(ValueError):
        content_times(pa.array(["0" * 64, wrong], pa.string()))
