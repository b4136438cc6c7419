"""Progress of a warm: bytes count as they come, what is told of them is true, and so is what is told of the time that is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.fetching import progress
from cacheengine.fetching.fetch import REQUEST, bytes_of_requests, plan
from cacheengine.fetching.progress import Piece, Progress
from cacheengine.packs.have import make
from cacheengine.wire import Job, WarmRequest
from lake import imports
from lake.config import StoreConfig
from lake.inplace import publish_in_place
from lake.stores import open_store, put
from tests.cacheengine.badstore import Proxy
from tests.cacheengine.groups import Nodes
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.conftest import Seaweed, wait_until


@pytest.mark.fault("B4")
@given(
    st.floats(1.0, 400.0),
    st.integers(1 << 16, 1 << 40),  # of a few bytes none can come evenly
    st.floats(0.0, 30.0),
    st.lists(st.floats(0.02, 0.4), min_size=5, max_size=5),
)
def test_on_a_steady_link_the_time_that_is_left_is_known_from_a_tenth_on(
    seconds: float, total: int, late: float, steps: list[float]
) -> None:
    """Bytes come evenly, after a wait and at any intervals; a tenth of the time on the ETA is within 20 % or a second."""
    found, now, number = Progress(total), 1000.0 + late, 0
    began = now
    while now < began + seconds:
        came = int(total * (now - began) / seconds)
        progress.add_came(found, came - found.came, came - found.received, now)
        left = began + seconds - now
        if now - began >= max(0.1 * seconds, 0.5):
            said = progress.eta_s(found, now)
            assert said is not None or found.came == 0
            assert said is None or abs(said - left) <= max(0.2 * left, 1.0)
        now += steps[number % len(steps)]
        number += 1


@pytest.mark.fault("B4")
def test_a_link_that_becomes_slower_is_believed_after_a_while() -> None:
    found = Progress(10_000_000)
    for tenth in range(1, 1200):
        bps = 50_000 if tenth < 300 else 5_000
        progress.add_came(found, bps // 10, bps // 10, tenth / 10)
    rate = progress.rate(found, 119.9)
    assert rate is not None and rate < 5_600
    assert len(found.samples) <= 1 + progress.WINDOW_S / progress.SAMPLE_EVERY_S


@given(
    st.integers(1, 1000),
    st.integers(0, 1000),
    st.lists(st.integers(-1500, 1500), max_size=30),
    st.floats(0, 1),
)
def test_what_is_told_of_a_request_is_never_more_than_its_members(
    members: int, between: int, counts: list[int], share: float
) -> None:
    """Bytes that come twice, in vain or between members: on the way is 0 to the bytes of the members, and right at the end."""
    found = Progress(members + between)
    piece = Piece(
        lambda count, received: progress.add_came(found, count, received), members + between, members
    )
    for count in counts:
        piece.add(count)
        assert 0 <= progress.on_the_way(found) <= members
    good = int(share * members)
    piece.settle(good)
    assert progress.on_the_way(found) == good
    progress.add_marked(found, good)
    assert progress.on_the_way(found) == 0


@given(st.lists(st.tuples(st.integers(0, 600 << 10), st.integers(0, 9 << 20)), max_size=20))
def test_bytes_to_come_are_those_of_the_requests(steps: list[tuple[int, int]]) -> None:
    """Members and the near gaps between them; where a request ends anyway its gap does not come."""
    offset, length, end = [], [], 0
    for gap, size in steps:
        offset.append(end + gap)
        length.append(size)
        end += gap + size
    have = make(offset, length, [0] * len(offset))
    pieces = plan(have.offset, have.size)
    most = bytes_of_requests(have.offset, have.size)
    asked = sum(piece.length for piece in pieces)
    assert asked <= most <= asked + len(pieces) * (256 << 10)


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    made = Proxy(seaweed.endpoint)
    with closing(made):
        yield made


@pytest.fixture
def nodes(
    store_config: Callable[..., StoreConfig], proxy: Proxy, tmp_path: Path
) -> Iterator[tuple[Nodes, StoreConfig]]:
    config = store_config("lake-a", "idc-a")
    spoiled = config.model_copy(update={"endpoint": proxy.endpoint, "read_only": True})
    found = Nodes(tmp_path / "home", spoiled)
    found.start_control()
    found.start("n1")
    yield found, config
    proxy.later.set()
    found.end()


def job_of(nodes: Nodes, job: Job) -> Job:
    with nodes.control() as control:
        return control.job(job.id)


def begin(nodes: Nodes, data: Dataset) -> Job:
    with nodes.control() as control:
        return control.warm(WarmRequest(dataset=data.name, ref=data.tag))


@pytest.mark.fault("B4")
@pytest.mark.parametrize("kind", ["small files", "a long file", "single objects"])
def test_progress_moves_within_a_request_and_resident_is_said_of_what_was_checked(
    nodes: tuple[Nodes, StoreConfig], proxy: Proxy, tmp_path: Path, kind: str
) -> None:
    """The store sends half of each answer, and the rest when we have seen that half."""
    made, config = nodes
    store = open_store(config)
    files = (
        {"long.bin": os.urandom(REQUEST - 1000)} if kind == "a long file" else make_files(60, 9000, 90_000)
    )
    if kind == "single objects":
        files = {"packs/one.bin": os.urandom(3 << 20), "packs/two.bin": os.urandom(3 << 20)}
        for path, content in files.items():
            put(store, path, content)
        items = imports.prefix_items(store, "packs")
        found = publish_in_place(store, "frames", items, lambda name: store, {})
        data = Dataset("frames", found.tag, found.version, files, ())
    else:
        data = publish(store, tmp_path, files, pack_bytes=1 << 30)
    proxy.fault = "half later"
    job = begin(made, data)
    wait_until(lambda: job_of(made, job).bytes_coming > 0.4 * data.bytes, "half of the bytes to be told")
    half = job_of(made, job)
    assert (half.state, half.bytes_done, half.files_done) == ("running", 0, 0)
    assert half.bytes_coming < 0.6 * data.bytes
    assert half.nodes[0].bytes_coming == half.bytes_coming
    proxy.later.set()
    with made.control() as control:
        done = control.wait(job.id, timeout_s=60)
    assert (done.state, done.bytes_done, done.bytes_coming) == ("done", data.bytes, 0)


@pytest.mark.fault("B4", "A1")
def test_bytes_that_turn_out_wrong_are_on_the_way_no_more(
    nodes: tuple[Nodes, StoreConfig], proxy: Proxy, tmp_path: Path
) -> None:
    made, config = nodes
    data = publish(open_store(config), tmp_path, make_files(20, 9000, 90_000), pack_bytes=1)
    proxy.fault = "wrong"
    job = begin(made, data)
    with made.control() as control:
        failed = control.wait(job.id, timeout_s=60)
    assert (failed.state, failed.files_done, failed.bytes_coming) == ("failed", 0, 0)
    assert failed.nodes[0].bytes_coming == 0
