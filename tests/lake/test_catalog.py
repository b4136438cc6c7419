from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake import catalog, catalogcache, holdings, publish, stores
from lake.config import StoreConfig
from lake.errors import Conflict, NotFound, Refused
from lake.pruning import visible
from tests.lake.frames import cut

DAYS = ("2026-06-01", "2026-06-02", "2026-06-03")


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    """Three days of three vehicles, a drive of two frames each."""
    folder = tmp_path_factory.mktemp("nine")
    store = stores.open_store(StoreConfig(name="nine", idc="i", url=f"file://{folder / 'store'}"))
    for day in DAYS:
        for vehicle in "abc":
            cut(store, folder, f"{vehicle}{day[-1]}", 2, vehicle=vehicle, date=day)
    return store, folder


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))


def asked(store, scratch, sql):
    with catalog.query(store, sql, scratch) as answer:
        return pa.concat_tables([answer.schema.empty_table(), *answer.rows]), answer.files


@pytest.mark.parametrize(
    ("sql", "files"),
    [
        ("select * from frames where date = '2026-06-02'", 3),
        ("select * from frames f where f.date >= '2026-06-02' and f.vehicle = 'a' and size > 0", 2),
        ("select * from frames where drive in ('a1', 'b3')", 2),
        ("select * from frames where vehicle = 'a' union all from frames where vehicle = 'b'", 6),
        ("with x as (select * from frames where date = '2026-06-01') select * from x where vehicle = 'a'", 3),
        ("select * from frames where date = '2026-06-01' or size = 0", 9),
        ("select a.* from frames a left join frames b on a.path = b.path where a.vehicle = 'a'", 9),
        ("with frames as (select * from frames) select * from frames where vehicle = 'a'", 9),
        ("select * from frames where date = (select max(date) from frames)", 9),
    ],
)
def test_only_the_partitions_of_the_query_are_fetched(nine, tmp_path, monkeypatch, sql, files):
    store, _ = nine
    fetched: list[str] = []
    get = stores.get
    monkeypatch.setattr(stores, "get", lambda store, key: fetched.append(key) or get(store, key))
    rows, asked_files = asked(store, tmp_path, sql)
    assert len(asked_files) == len(fetched) == files
    monkeypatch.setattr(catalog.pruning, "visible", lambda sql, partitions: [True] * len(partitions))
    assert asked(store, tmp_path, sql)[0].equals(rows)


LEAF = st.one_of(
    st.builds(
        "{} {} '{}'".format,
        st.sampled_from(["date", "f.date", "F.Date"]),
        st.sampled_from(["=", "<>", "<", ">="]),
        st.sampled_from(DAYS),
    ),
    st.builds(
        "{} {} '{}'".format,
        st.just("vehicle"),
        st.sampled_from(["=", "<>", "like"]),
        st.sampled_from("abcx%"),
    ),
    st.sampled_from(
        [
            "drive in ('a1', 'c2')",
            "frame_index = 1",
            "vehicle is null",
            "date is not null",
            "date between '2026-06-01' and '2026-06-02'",
            "vehicle || '1' = drive",
            "upper(vehicle) = 'A'",
            "true",
            "null",
            "date = (select min(date) from frames)",
            "exists (select 1 from frames g where g.date > f.date and g.vehicle = 'b')",
        ]
    ),
)
WHERE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=15, deadline=None)
@given(WHERE)
def test_pruning_never_changes_an_answer(nine, where):
    """WHERE trees of up to 5 leaves over 9 partitions: the answer is that of asking all of them."""
    store, folder = nine
    sql = f"select * from frames f where {where}"
    pruned, files = asked(store, folder, sql)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog.pruning, "visible", lambda sql, partitions: [True] * len(partitions))
        whole, all_files = asked(store, folder, sql)
    assert pruned.equals(whole) and len(files) <= len(all_files) == 9


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(18)), st.integers(1, 18))
def test_any_order_of_rows_and_any_batches_give_the_same_version(nine, tmp_path_factory, order, size):
    """Permutations of 18 rows in 9 files, any batches, as another machine would have cut and asked: one version id."""
    store, folder = nine
    with catalog.query(store, "select * from frames", folder) as answer:
        rows = pa.concat_tables(answer.rows)
    expected = publish.version_of("a", [rows], rows.schema)
    other = stores.open_store(
        StoreConfig(name="o", idc="i", url=f"file://{tmp_path_factory.mktemp('other')}")
    )
    for info in stores.list_objects(store, "packs/"):
        stores.put(other, info.key, stores.get(store, info.key))
    shuffled = rows.take(order)
    for place in set(zip(*(rows[name].to_pylist() for name in ("date", "vehicle", "drive")), strict=True)):
        mine = shuffled.filter(pc.equal(shuffled["drive"], place[2]))
        catalog.write_frames(other, mine, *place, "ab" * 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "BATCH_ROWS", size)
        assert publish.publish_query(other, "b", "select * from frames", folder, {}).version == expected


def test_what_is_not_understood_excludes_nothing():
    assert visible("selec", [("d", "v", "x")]) == [True]
    assert visible("select 1", [("d", "v", "x")]) == [True]
    assert visible("select * from frames where date = 'x'", []) == []


def tagged(store, folder, drive, column, values, date="2026-06-01"):
    """The same drive again with one column more."""
    other = stores.open_store(StoreConfig(name="o", idc="i", url=f"file://{folder / 'other'}"))
    cut(other, folder, drive, len(values), date=date)
    rows = catalog.read_frames(other, date, "car", drive, "ab" * 32)
    for info in stores.list_objects(other, "packs/"):
        stores.put(store, info.key, stores.get(other, info.key))
    return catalog.write_frames(store, rows.append_column(column, values), date, "car", drive, "ab" * 32)


def test_the_schema_gains_columns(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "old", 2)
    before = publish.publish_query(store, "a", "select * from frames", tmp_path, {})
    tagged(store, tmp_path, "new", "night", pa.array([True, False]), date="2026-06-02")
    rows, _ = asked(store, tmp_path, "select * from frames")
    assert rows["night"].to_pylist() == [True, False, None, None]
    # an old question has the old answer
    again = publish.publish_query(store, "a", "select * from frames where date = '2026-06-01'", tmp_path, {})
    assert again.version == before.version
    # a column that only excluded files have is null, not unknown
    rows, files = asked(store, tmp_path, "select *, night as n from frames where date = '2026-06-01'")
    assert rows["n"].to_pylist() == [None, None] and len(files) == 2
    with pytest.raises(Conflict, match="bool in the catalogue, here string"):
        tagged(store, tmp_path, "third", "night", pa.array(["yes"]))
    with pytest.raises(Refused, match="small letters"):
        tagged(store, tmp_path, "third", "Night time", pa.array(["yes"]))
    with pytest.raises(Refused, match="list"):
        tagged(store, tmp_path, "third", "boxes", pa.array([[1.0]]))


def test_rows_of_another_drive_are_refused(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 2)
    rows = catalog.read_frames(store, "2026-06-01", "car", "d1", "ab" * 32)
    for place in (("2026-06-02", "car", "d1"), ("2026-06-01", "bus", "d1"), ("2026-06-01", "car", "d2")):
        with pytest.raises(Refused, match="not all of them"):
            catalog.write_frames(store, rows, *place, "ab" * 32)


def test_frames_without_their_pack_are_refused(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 2)
    rows = catalog.read_frames(store, "2026-06-01", "car", "d1", "ab" * 32)
    for info in list(stores.list_objects(store, "packs/")):
        stores.delete(store, info.key)
    with pytest.raises(NotFound, match="ingest the drive again"):
        catalog.write_frames(store, rows, "2026-06-01", "car", "d1", "cd" * 32)
    assert len(catalog.drives_in(store)) == 1


def test_copies_are_shared_and_bounded(nine, tmp_path, monkeypatch):
    store, _ = nine
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    folder = home / "cache" / "catalog"
    asked(store, tmp_path / "one", "select * from frames where vehicle = 'a'")
    kept = list(folder.glob("*.parquet"))
    assert len(kept) == 3
    monkeypatch.setattr(stores, "get", lambda store, key: pytest.fail(f"{key} was fetched again"))
    asked(store, tmp_path / "two", "select * from frames where vehicle = 'a'")
    monkeypatch.undo()
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    for path in kept:
        os.utime(path, (1, 1))
    size = max(path.stat().st_size for path in kept)
    monkeypatch.setattr(catalogcache, "CACHE_BYTES", 4 * size)
    rows, _ = asked(store, tmp_path / "three", "select * from frames where vehicle <> 'a'")
    assert rows.num_rows == 12
    assert 0 < sum(path.stat().st_size for path in folder.iterdir()) <= 4 * size
    assert not set(kept) & set(folder.iterdir()), "what was not used for longest goes first"
    # a query that needs more than the bound has it for as long as it runs
    monkeypatch.setattr(catalogcache, "CACHE_BYTES", 0)
    assert asked(store, tmp_path / "four", "select * from frames")[0].num_rows == 18
    assert list(folder.iterdir()) == []
    assert [path for path in Path(tmp_path / "four").rglob("*") if path.is_file()] == []


def test_versions_that_hold_a_drive(make_folder_store, tmp_path, monkeypatch):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    cut(store, tmp_path, "d2", 4)
    both = publish.publish_query(store, "a", "select * from frames", tmp_path, {})
    bare = publish.publish_query(
        store, "b", "select * exclude (vehicle) from frames where drive = 'd1'", tmp_path, {}
    )
    other = publish.publish_query(store, "c", "select * from frames where drive = 'd2'", tmp_path, {})
    written = [info.key for info in stores.list_objects(store, "drives/")]
    assert len(written) == 3

    def held(*names):
        return {(found.version, found.vehicle, found.files) for found in holdings.held_by(store, *names)}

    monkeypatch.setattr(holdings.manifests, "read_parts", lambda *args: pytest.fail("a part was opened"))
    expected = {(both.version, "car", 3), (bare.version, None, 3)}
    assert held("d1") == held("d1", "car") == expected
    assert held("d2") == {(both.version, "car", 4), (other.version, "car", 4)}
    assert held("d1", "bus") == {(bare.version, None, 3)}, "rows that name no vehicle may be of any"
    assert held("d9") == set()
    monkeypatch.undo()
    for key in written:
        stores.delete(store, key)
    assert held("d1", "car") == expected
    assert sorted(info.key for info in stores.list_objects(store, "drives/")) == sorted(written)
