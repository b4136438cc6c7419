from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake import building, compare, manifests, packs, stores
from lake.canonical import blake3_hex, canonical_json
from lake.config import StoreConfig
from lake.errors import Corrupt, Refused
from lake.paths import path_hashes
from lake.stores import open_store


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
    """Up to 60 paths in any batches: the same parts."""
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


def is_legal(path):
    """The rule of docs/lake.md, said slowly."""
    names = path.split("/")
    short = len(path.encode()) <= 4000 and all(1 <= len(name.encode()) <= 255 for name in names)
    return short and "\0" not in path and not {".", ".."} & set(names)


ODD = st.lists(
    st.sampled_from(["a", "é", ".", "..", "/", "//", "\0", "n" * 254, "𝄞", "\u0301", " ", "\n"]), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ODD.map("".join) | st.text(max_size=8), min_size=1, max_size=9, unique=True))
def test_the_first_illegal_path_is_the_one_that_is_named(paths):
    """Columns of up to 9 odd paths: refused at the first illegal one, and not where all are legal."""
    paths = sorted(paths, key=str.encode)
    bad = next((row for row, path in enumerate(paths) if not is_legal(path)), None)
    if bad is None:
        manifests.check_paths(pa.array(paths), "it")
    else:
        with pytest.raises(Refused, match=f"row {bad}, "):
            manifests.check_paths(pa.array(paths), "it")


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


def hostile(store, table):
    """A part with the right hash of its rows, whatever they are: as a malicious publisher would write it."""
    part_id = manifests.canonical_columns_id(table)
    stores.put(store, manifests.part_key(part_id), packs.parquet_bytes(table))
    return part_id


def raw(column, kind=None):
    """A column of strings that are no UTF-8: Arrow does not look."""
    return pa.array([column], pa.binary()).view(pa.string()) if kind is None else pa.array([column], kind)


def with_row(table, **values):
    for name, value in values.items():
        array = value if isinstance(value, pa.Array) else pa.array([value], table.schema.field(name).type)
        column = pa.concat_arrays([table[name].combine_chunks()[:1], array, table[name].combine_chunks()[2:]])
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


DOCS = Path(__file__).parents[2] / "docs" / "publish.md"
THREE = ["a", "b", "c"]
HOSTILE = {
    "escapes": ({"path": "b/../../etc"}, "row 1, the path .*no plain relative path"),
    "absolute": ({"path": "/b"}, "row 1.*no plain relative path"),
    "not normalised, dot": ({"path": "b/./c"}, "row 1.*no plain relative path"),
    "not normalised, slashes": ({"path": "b//c"}, "row 1.*no plain relative path"),
    "a folder": ({"path": "b/"}, "row 1.*no plain relative path"),
    "a NUL": ({"path": "b\0c"}, "row 1.*no plain relative path"),
    "no name": ({"path": ""}, "row 1.*no plain relative path"),
    "long name": ({"path": "b" * 256}, "row 1.*256 bytes"),
    "long path": ({"path": "b" + "/b" * 2000}, "row 1.*4001 bytes"),
    "not UTF-8": ({"path": raw(b"b\xff")}, "row 1, .*not UTF-8"),
    "not UTF-8 elsewhere": ({"content_id": raw(b"\xff" * 64)}, "row 1, .*not UTF-8"),
    "repeats": ({"path": "a"}, "row 1, the path 'a': it does not come after 'a'"),
    "out of order": ({"path": "A"}, "row 1, the path 'A': it does not come after"),
    "no path": ({"path": None}, "row 1: its path is null"),
    "no size": ({"size": None}, "row 1: its size is null"),
    "negative size": ({"size": -1}, "row 1, 'b': a size of -1"),
    "huge size": ({"size": 2**44 + 1}, "row 1, 'b': a size of 17592186044417"),
    "short hash": ({"content_id": "0" * 63}, "row 1, 'b'.*no hash"),
    "capital hash": ({"content_id": "A" * 64}, "row 1, 'b'.*no hash"),
    "no hash": ({"content_id": ""}, "row 1, 'b'.*no hash"),
}


def told(kind, name, error):
    """The row of docs/publish.md: what is long is cut, ids are left out."""
    why = re.sub(r"^the part [0-9a-f]{12}: ", "", error.why)
    why = re.sub(r"(/b|.|\\xff)\1{20,}", r"\1…", re.sub(r"'[0-9a-f]{64}'", "…", why))
    return f"| {kind}: {name} | {why.replace('|', chr(92) + '|')} |"


def check_page(row):
    assert row in DOCS.read_text(encoding="utf-8"), f"docs/publish.md shows another message: {row}"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_parts_are_refused_with_the_row(make_folder_store, name):
    changes, says = HOSTILE[name]
    store = make_folder_store()
    part = hostile(store, with_row(rows(THREE), **changes))
    with pytest.raises(Corrupt, match=says) as caught:
        manifests.read_part(store, part)
    check_page(told("part", name, caught.value))


def test_hostile_columns_are_refused(make_folder_store):
    store, table = make_folder_store(), rows(THREE)
    for wrong, says in (
        (table.drop_columns(["size"]), "column size"),
        (table.set_column(2, "size", pa.array([1, 1, 1], pa.int32())), "column size"),
        (table.append_column("when", pa.array([1, 2, 3], pa.timestamp("ms"))), "'when' is timestamp"),
    ):
        with pytest.raises(Corrupt, match=says):
            manifests.read_part(store, hostile(store, wrong))
    store_key = manifests.part_key("0" * 64)
    stores.put(store, store_key, b"PAR1 and then nothing")
    with pytest.raises(Corrupt, match="not Parquet"):
        manifests.read_part(store, "0" * 64)


def test_a_part_of_too_many_rows_is_not_read(make_folder_store, monkeypatch):
    store = make_folder_store()
    part = hostile(store, rows(THREE))
    monkeypatch.setattr(manifests, "MAX_PART_ROWS", 2)
    with pytest.raises(Corrupt, match="3 rows, 2 are possible"):
        manifests.read_part(store, part)


def put_root(store, table_list, change=lambda root: root):
    refs = [manifests.put_part(store, table)[0] for table in table_list]
    columns = [(field.name, str(field.type)) for field in table_list[0].schema]
    _, data = manifests.make_root(columns, refs)
    data = canonical_json(change(json.loads(data)))
    version = blake3_hex(data)
    stores.put(store, manifests.root_key(version), data)
    return version


def changed(place, **values):
    def change(root):
        root["parts"][place] |= values
        return root

    return change


ROOTS = {
    "order": (lambda root: root | {"parts": root["parts"][::-1]}, "does not come after"),
    "twice": (lambda root: root | {"parts": root["parts"][:1] * 2}, "does not come after"),
    "totals": (lambda root: root | {"files": 9}, "totals"),
    "identity": (lambda root: root | {"identity": "name"}, "no identity"),
    "columns": (lambda root: root | {"columns": root["columns"][1:]}, "columns begin"),
    "column twice": (lambda root: root | {"columns": root["columns"] + root["columns"][-1:]}, "stands twice"),
    "other columns": (
        lambda root: root | {"columns": [*root["columns"], ["x", "string"]]},
        "its columns are",
    ),
    "id": (changed(0, id="../x"), "part 0: its id"),
    "type": (changed(0, rows="2"), "part 0: '2' rows"),
    "bool": (changed(0, bytes=True), "part 0: 2 rows of True"),
    "no rows": (changed(0, rows=0), "part 0: 0 rows"),
    "negative": (changed(0, bytes=-1), "part 0: 2 rows of -1"),
    "last": (changed(0, last="b/"), "the root speaks of"),
    "first": (changed(1, first="c1"), "the root speaks of"),
    "missing": (lambda root: {"parts": root["parts"]}, "no root"),
    "list": (lambda root: root | {"parts": 1}, "no root"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_hostile_roots_are_refused(make_folder_store, name):
    store = make_folder_store()
    change, says = ROOTS[name]
    tables = [rows(["a", "b"]), rows(["c", "d"])]
    good = put_root(store, tables)
    assert pa.concat_tables(manifests.read_parts(store, manifests.read_root(store, good))).num_rows == 4
    with pytest.raises(Corrupt, match=says) as caught:
        list(manifests.read_parts(store, manifests.read_root(store, put_root(store, tables, change))))
    check_page(told("root", name, caught.value))


def test_json_that_is_not_canonical_is_no_root(make_folder_store):
    store = make_folder_store()
    data = stores.get(store, manifests.root_key(put_root(store, [rows(["a"])])))
    for other in (
        data.replace(b":", b": "),
        data.replace(b'"path"', b'"p\\u0061th"'),
        data[:-1],
        b"[]",
        b"\xff",
    ):
        version = blake3_hex(other)
        stores.put(store, manifests.root_key(version), other)
        with pytest.raises(Corrupt):
            manifests.read_root(store, version)


def test_a_file_of_one_part_is_no_folder_of_the_next(make_folder_store):
    store = make_folder_store()
    version = put_root(store, [rows(["a/b", "a/b!"]), rows(["a/b/c"])])
    with pytest.raises(Corrupt, match="file and a folder"):
        list(manifests.read_parts(store, manifests.read_root(store, version)))


CONTENT = st.dictionaries(PATH.map("/".join), st.sampled_from("abc"), max_size=40)


def of(content):
    names = sorted(content, key=str.encode)
    table = rows(names)
    return table.set_column(1, "content_id", pa.array([content[name] * 64 for name in names], pa.string()))


def placed(table):
    packs_of, offsets = ["0" * 64] * table.num_rows, range(0, 4096 * table.num_rows, 4096)
    return table.append_column("pack", pa.array(packs_of, pa.string())).append_column(
        "offset", pa.array(offsets, pa.int64())
    )


def without_clashes(content):
    folders = {name[:end] for name in content for end in range(len(name)) if name[end] == "/"}
    return {name: value for name, value in content.items() if name not in folders}


@settings(max_examples=40, deadline=None)
@given(CONTENT.map(without_clashes), CONTENT.map(without_clashes))
def test_a_difference_is_that_of_the_dictionaries(tmp_path_factory, old, new):
    """Pairs of versions of up to 40 files in tiny parts: the difference is that of two dictionaries."""
    store = open_store(StoreConfig(name="l", idc="i", url=f"file://{tmp_path_factory.mktemp('d')}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "CUT_MASK", manifests.np.uint64(0x3))
        names = ["path", "content_id", "size"]
        versions = []
        for content in (old | {"~": "c"}, new | {"~": "c"}):
            checked = building.checked_parts([placed(of(content))], "it")
            parts = [built for _, built in building.put_parts(store, checked, names)]
            kinds = [("path", "string"), ("content_id", "string"), ("size", "int64")]
            version, root = manifests.make_root(kinds, [built.part for built in parts])
            stores.put_if_absent(store, manifests.root_key(version), root)
            versions.append(version)
    found = compare.diff(store, *versions)
    assert found.added["path"].to_pylist() == sorted(new.keys() - old.keys(), key=str.encode)
    assert found.removed["path"].to_pylist() == sorted(old.keys() - new.keys(), key=str.encode)
    both = sorted((name for name in new.keys() & old.keys() if new[name] != old[name]), key=str.encode)
    assert found.changed["path"].to_pylist() == both
    assert found.changed["content_id"].to_pylist() == [new[name] * 64 for name in both]


def test_equal_parts_are_not_opened(make_folder_store):
    store = make_folder_store()
    shared, one, two = rows(["a", "b"]), rows(["c"]), rows(["c", "d"])
    old, new = put_root(store, [shared, one]), put_root(store, [shared, two])
    stores.delete(store, manifests.part_key(manifests.canonical_columns_id(shared)))
    assert compare.diff(store, old, new).added["path"].to_pylist() == ["d"]


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


def test_golden_cuts():
    """Where parts end is a promise too: it is in every version id."""
    names = ["a", "b/é", "720p/car/drive/CAM/1700000000000000000.jpg", "n" * 255]
    found = [f"{value:016x}" for value in path_hashes(pa.array(names)).tolist()]
    assert found == CUTS
    assert int(manifests.CUT_MASK) == 0x1FFF


CUTS = ["ee8c2baf6343e5c3", "ca92817076120e4a", "45e8e4dd17e590f6", "c21c063db3152560"]
