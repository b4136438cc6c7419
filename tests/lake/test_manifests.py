from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake import manifests, stores
from lake.errors import Corrupt, Refused


def rows(paths, content="0" * 64):
    count = len(paths)
    return pa.table(
        {"path": paths, "content_id": [content] * count, "size": pa.array([1] * count, pa.int64())}
    )


PATH = st.lists(
    st.text("ab.é-", min_size=1, max_size=5).filter(lambda p: p not in (".", "..")), min_size=1, max_size=3
)


@settings(max_examples=50, deadline=None)
@given(st.sets(PATH.map("/".join), min_size=1, max_size=60), st.data())
def test_parts_do_not_depend_on_batches(paths, data):
    table = rows(sorted(paths, key=str.encode))
    cuts = sorted(data.draw(st.lists(st.integers(0, table.num_rows), max_size=5)))
    edges = [0, *cuts, table.num_rows]
    batches = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    whole = [p.combine_chunks() for p in manifests.cut_parts([table])]
    pieces = [p.combine_chunks() for p in manifests.cut_parts(batches)]
    assert [manifests.canonical_columns_id(p) for p in whole] == [
        manifests.canonical_columns_id(p) for p in pieces
    ]
    assert pa.concat_tables(whole).equals(table)


def test_a_changed_row_changes_one_part(monkeypatch):
    monkeypatch.setattr(manifests, "CUT_MASK", manifests.np.uint64(0x3F))
    table = rows([f"d/{n:06d}" for n in range(20_000)])
    before = [manifests.canonical_columns_id(p) for p in manifests.cut_parts([table])]
    added = rows(sorted([*table["path"].to_pylist(), "d/010000x"]))
    after = [manifests.canonical_columns_id(p) for p in manifests.cut_parts([added])]
    assert 200 < len(before) < 500
    assert len(set(after) - set(before)) <= 2


def test_parts_have_a_largest_size(monkeypatch):
    monkeypatch.setattr(manifests, "CUT_MASK", manifests.np.uint64(2**64 - 1))
    monkeypatch.setattr(manifests, "MAX_PART_ROWS", 100)
    table = rows([f"{n:06d}" for n in range(1050)])
    parts = list(manifests.cut_parts([table.slice(0, 333), table.slice(333)]))
    assert [p.num_rows for p in parts] == [100] * 10 + [50]
    assert pa.concat_tables(parts).equals(table)


def test_golden_id():
    """The id of a part is a promise: this one must never change."""
    table = pa.table(
        {
            "path": ["a", "b/é"],
            "size": pa.array([1, None], pa.int64()),
            "night": pa.array([True, None], pa.bool_()),
            "speed": pa.array([-0.0, float("nan")], pa.float64()),
        }
    )
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert manifests.canonical_columns_id(table) == manifests.canonical_columns_id(chunked) == GOLDEN


GOLDEN = "4dc220522777d2004c681f66b7f52b484dc456393c6640ced4de9cc193bb1070"
BAD = ["", "/a", "a/", "a//b", ".", "a/..", "../a", "a\0", "n" * 256, "é" * 128, "a/" + "n" * 256 + "/b"]


@pytest.mark.parametrize("path", BAD)
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(Refused):
        manifests.check_paths(pa.array([path]), "it")


@pytest.mark.parametrize("path", ["a", "n" * 255, "é" * 127, "...", "a/.b", "a b/\n"])
def test_legal_paths(path):
    manifests.check_paths(pa.array([path]), "it")


def test_order_and_twice():
    for paths in (["b", "a"], ["a", "a"]):
        with pytest.raises(Refused, match="does not come after"):
            manifests.check_paths(pa.array(paths), "it")


@pytest.mark.parametrize("split", [0, 1, 2])
def test_no_path_is_file_and_folder(split):
    paths = ["a/b", "a/b!", "a/b/c"]
    above: set[str] = set()
    with pytest.raises(Refused, match="file and a folder"):
        for part in (paths[:split], paths[split:]):
            if part:
                above = manifests.check_folders(pa.array(part), above, "it")
    manifests.check_folders(pa.array(["a/b", "a/bc/d", "b"]), set(), "it")


def test_changed_bytes_under_a_name_are_found(make_folder_store):
    store = make_folder_store()
    good, _ = manifests.put_part(store, rows(["a", "b"]))
    bad, _ = manifests.put_part(store, rows(["a", "c"]))
    stores.put(store, manifests.part_key(good.id), stores.get(store, manifests.part_key(bad.id)))
    with pytest.raises(Corrupt, match="hash"):
        manifests.read_part(store, good.id)
    version, root = manifests.make_root([("path", "string")], [good])
    stores.put(store, manifests.root_key(version), root.replace(b'"files":2', b'"files":3'))
    with pytest.raises(Corrupt, match="hash"):
        manifests.read_root(store, version)
