"""Datasets published in place: nodes put packs together from single objects, and read them as any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cacheengine.agent import mounts
from cacheengine.agent.state import Node
from lake import imports
from lake.config import StoreConfig
from lake.inplace import publish_in_place
from lake.stores import Store, open_store, put
from tests.cacheengine.faulty import again, causes, end, make_node, mount, seen, warm
from tests.cacheengine.nodes import Dataset, make_files

COUNT = 60
RIGHT = {"right": COUNT, "wrong": 0, "error": 0}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def node(lake: StoreConfig, tmp_path: Path) -> Iterator[Node]:
    made = make_node(tmp_path, lake)
    yield made
    end(made)


def publish_objects(store: Store, identity: str) -> Dataset:
    files = make_files(COUNT - 1, 1, 60_000) | {"empty": b""}
    for path, data in files.items():
        put(store, f"loose/{path}", data)
    items = imports.prefix_items(store, "loose")
    made = publish_in_place(store, "loose", items, lambda name: store, {}, identity=identity)
    return Dataset("loose", made.tag, made.version, files, ())


@pytest.mark.parametrize("identity", ["content", "etag"])
def test_a_node_assembles_packs_and_reads_them(node: Node, lake: StoreConfig, identity: str) -> None:
    store = open_store(lake)
    data = publish_objects(store, identity)
    view = mount(node, data)  # cold: fetchfs assembles what is read
    some = dict(list(data.files.items())[:5])
    assert seen(view, some) == {"right": 5, "wrong": 0, "error": 0}
    assert warm(node, data) == "resident", causes(node)
    mounts.keep_mounted(node)
    assert [record.remote for record in node.mounts.values()] == [()]
    assert seen(view, data.files) == RIGHT


@pytest.mark.parametrize("identity", ["content", "etag"])
def test_an_object_that_was_overwritten_is_named_and_never_read(
    node: Node, lake: StoreConfig, identity: str
) -> None:
    store = open_store(lake)
    data = publish_objects(store, identity)
    path = "720p/CAM_1/000004.jpg"
    put(store, f"loose/{path}", data.files[path][::-1])
    assert warm(node, data) == "failed"
    assert path in causes(node) and "changed since it was published" in causes(node)
    view = mount(node, data)
    assert seen(view, data.files) == RIGHT | {"right": COUNT - 1, "error": 1}
    assert again(node) == "failed"
