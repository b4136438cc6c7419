"""Three and more real agents: what the store sends, what shares are, and nodes that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cacheengine.wire import WarmRequest
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.groups import Nodes
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.conftest import wait_until

NAMES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("group")
    found = Nodes(folder / "home", StoreConfig(name="lake-a", idc="idc-a", url=f"file://{folder / 'lake'}"))
    found.folder.mkdir()
    found.start_control()
    found.start(*NAMES)
    yield found
    found.end()


def publish_in(group: Nodes, scratch: Path, name: str, seed: int) -> Dataset:
    return publish(open_store(group.store), scratch, make_files(240, 20_000, 120_000, seed), name)


def assert_reads_right(view: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        assert (view / path).read_bytes() == data, path


def test_the_store_sends_each_byte_once_to_three_nodes(group: Nodes, tmp_path: Path) -> None:
    data = publish_in(group, tmp_path, "everywhere", 1)
    job = group.warm(data)
    assert (job.state, job.error) == ("done", None)
    sent = {name: group.counter(name, "store_bytes") for name in NAMES}
    taken = {name: group.counter(name, "peer_bytes") for name in NAMES}
    assert data.bytes <= sum(sent.values()) <= 1.05 * data.bytes, sent
    assert all(0.05 * data.bytes < one < 0.8 * data.bytes for one in sent.values()), sent
    assert sum(taken.values()) == pytest.approx(2 * data.bytes, rel=0.01)
    assert_reads_right(group.mount("n2", data), data.files)


def drop_pages() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


def used_of_the_store(group: Nodes, *names: str) -> int:
    """Bytes that these nodes, their fetchfs among them, say that they took from the store."""
    with group.control() as control:
        return sum(node.store_bytes for node in control.nodes() if node.node in names)


def generation_of(group: Nodes) -> int:
    with group.control() as control:
        return control.members().generation


def test_a_version_is_spread_and_its_shares_follow_the_group(group: Nodes, tmp_path: Path) -> None:
    data = publish_in(group, tmp_path, "spread", 2)
    with group.control() as control:
        asked = control.estimate(WarmRequest(dataset=data.name, ref=data.tag, placement="spread", copies=2))
    # shares, not whole copies
    assert sum(node.files_missing for node in asked.nodes) == pytest.approx(2 * 240, abs=3)
    assert sum(node.bytes_missing for node in asked.nodes) == pytest.approx(2 * data.bytes, rel=0.01)
    job = group.warm(data, placement="spread")
    assert (job.state, job.error, job.files_done) == ("done", None, 240)
    held = {name: group.held(name, data) for name in NAMES}
    assert sorted(pack for packs in held.values() for pack in packs) == sorted(data.packs)
    assert all(held.values()), "with so many packs nobody is without one"
    # one that joins takes its share from those that had it, and they let it go
    before = used_of_the_store(group, *NAMES)
    group.start("n4")
    wait_until(group.settled, "the shares of four")
    mine = group.held("n4", data)
    assert mine and group.counter("n4", "store_bytes") < 0.05 * data.bytes
    assert used_of_the_store(group, *NAMES) - before < 0.05 * data.bytes
    wait_until(lambda: mine.isdisjoint(group.held("n2", data) | group.held("n3", data)), "packs handed over")
    for name in ("n2", "n3"):
        assert group.held(name, data) == held[name] - mine, "only what the new one took has moved"

    # one that is drained hands over before it lets go
    with group.control() as control:
        control.drain("n4")
    wait_until(group.settled, "the shares of three")
    wait_until(lambda: not group.held("n4", data), "the drained node to let go")
    assert set(data.packs) <= set().union(*(group.held(name, data) for name in NAMES))
    assert used_of_the_store(group, *NAMES) - before < 0.05 * data.bytes

    # one that dies costs its share
    with group.control() as control:
        control.undrain("n4")
    wait_until(lambda: group.settled() and group.held("n4", data) == mine, "its share again")
    before, generation = used_of_the_store(group, *NAMES), generation_of(group)
    group.stop("n4")
    wait_until(lambda: generation_of(group) > generation and group.settled(), "its share elsewhere")
    assert {name: group.held(name, data) for name in NAMES} == held
    lost = sum(
        path.stat().st_size
        for path in Path(group.store.url.removeprefix("file://")).rglob("*.tar")
        if path.stem in mine
    )
    assert 0 < used_of_the_store(group, *NAMES) - before <= 1.05 * lost

    # what others hold is read from them
    before = used_of_the_store(group, *NAMES)
    assert_reads_right(group.mount("n1", data), data.files)
    assert used_of_the_store(group, *NAMES) - before < 0.2 * data.bytes  # lists of members


def test_clients_come_and_go_and_the_store_hears_nothing(group: Nodes, tmp_path: Path) -> None:
    data = publish_in(group, tmp_path, "elastic", 3)
    assert group.warm(data, nodes=",".join(NAMES)).state == "done"
    before, generation = used_of_the_store(group, *NAMES), generation_of(group)
    for name in ("c1", "c2"):
        group.start(name, role="client")
        view = group.mount(name, data)
        assert_reads_right(view, data.files)
        [traced] = group.trace(name, view / "720p/CAM_0/000000.jpg").parts
        assert traced.source == "page cache"
        drop_pages()
        [traced] = group.trace(name, view / "720p/CAM_0/000000.jpg").parts
        assert traced.source == "fetchfs"
        with group.control() as control:
            assert not control.desired(name).versions
        assert generation_of(group) == generation
        wait_until(lambda name=name: group.counts(name).get("peer_bytes", 0) >= data.bytes, "its counts")  # type: ignore[misc]
        assert group.counts(name)["store_bytes"] == 0
        group.stop(name)
    assert used_of_the_store(group, *NAMES) == before
