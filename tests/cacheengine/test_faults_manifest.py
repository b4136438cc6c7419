"""A version whose manifest lies, as a malicious publisher would write it: no node mounts or warms it, and others do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from cacheengine.agent import mounts
from cacheengine.agent.state import Node
from lake import building, manifests, refs, stores, versions
from lake.config import StoreConfig
from lake.errors import Corrupt, Refused
from lake.stores import Store, open_store
from tests.cacheengine.faulty import causes, desire, end, make_node, mount, seen, warm
from tests.cacheengine.nodes import Dataset, make_files, publish

COUNT = 12
PLACE = 5
HOSTILE: dict[str, dict[str, object]] = {
    "leads elsewhere": {"path": "../../etc/passwd"},
    "absolute": {"path": "/etc/passwd"},
    "dots": {"path": "720p/CAM_1/./x"},
    "NUL": {"path": "720p/CAM_1/a\0b"},
    "name too long": {"path": "720p/CAM_1/" + "n" * 256},
    "twice": {"path": "720p/CAM_1/000001.jpg"},
    "file and folder": {"path": "720p/CAM_1/000001.jpg/x"},
    "negative size": {"size": -1},
    "size beyond the pack": {"size": 1 << 40},
    "offset before the pack": {"offset": -4096},
    "offset beyond the pack": {"offset": 1 << 40},
    "offset off a block": {"offset": 4097},
    "a pack elsewhere": {"pack": "../../../etc/passwd"},
    "a content id that is none": {"content_id": "../x"},
}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def node(tmp_path: Path, lake: StoreConfig) -> Iterator[Node]:
    made = make_node(tmp_path, lake)
    yield made
    end(made)


def lying(store: Store, good: Dataset, name: str, changes: dict[str, object]) -> Dataset:
    """A copy of a dataset with one row changed; every hash is that of what it stands for."""
    table = pa.concat_tables(versions.rows(store, good.version)).combine_chunks()
    for column, value in {"drive": name, **changes}.items():  # another drive, and so another version
        values = table[column].to_pylist()
        values[PLACE] = value
        changed = pa.array(values, table.schema.field(column).type)
        table = table.set_column(table.schema.get_field_index(column), column, changed)
    root = manifests.read_root(store, good.version)
    names = [column for column, _ in root.columns]
    [(_, built)] = building.put_parts(store, [table], names)
    version, data = manifests.make_root(root.columns, [built.part])
    stores.put(store, manifests.root_key(version), data)
    known = versions.read_available(store, good.version)
    total = replace(known, version=version, bytes=built.part.bytes, locations=(built.locations,))
    versions.write_available(store, total)
    ref = refs.read_ref(store, good.name, good.tag)
    assert ref is not None
    stores.put(
        store, refs.ref_key(name, "v1"), refs.to_json(replace(ref, dataset=name, tag="v1", version=version))
    )
    return Dataset(name, "v1", version, good.files, good.packs)


def test_no_node_takes_it(node: Node, lake: StoreConfig, tmp_path: Path) -> None:
    store = open_store(lake)
    good = publish(store, tmp_path, make_files(COUNT, 1000, 9000))
    assert warm(node, good) == "resident"
    view = mount(node, good)
    folders = [mounts.images(node), node.config.mounts, *(directory.path for directory in node.cache.dirs)]
    before = [set(folder.rglob("*")) for folder in folders]
    for number, (what, changes) in enumerate(HOSTILE.items()):
        bad = lying(store, good, f"bad-{number}", changes)
        assert bad.version != good.version
        with pytest.raises((Refused, Corrupt)):
            mount(node, bad)
        assert warm(node, bad) == "failed", what
        assert causes(node), what
        assert not any(s.files_resident for k, s in node.statuses.items() if k.version == bad.version), what
        assert [record.report.dataset for record in node.mounts.values()] == [good.name], what
        assert seen(view, good.files) == {"right": COUNT, "wrong": 0, "error": 0}, what
    assert [set(folder.rglob("*")) for folder in folders] == before  # no image, folder or pack of it is left
    desire(node, good)
    mounts.umount(node, str(view))
