"""Three and more real agents: what the store sends, what shares are, and nodes that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.groups import Nodes
from tests.cacheengine.nodes import Dataset, make_files, publish

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
