"""What versions want, saved on a node: whatever was saved and forgotten before, it is what the rows of each version say."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cacheengine import segments, wanted
from cacheengine.content_times import content_times
from lake import building, manifests, stores, versions
from lake.canonical import blake3_hex
from lake.config import StoreConfig
from lake.errors import Corrupt
from lake.stores import Store

COLUMNS = manifests.KEY_COLUMNS
PACK = 1 << 20
Rows = dict[str, tuple[int, int, str]]
"""path → (pack, block of 4 KiB in it, content)"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of about four rows."""
    monkeypatch.setattr(manifests, "CUT_MASK", np.uint64(0x3))


def pack_id(number: int) -> str:
    return blake3_hex(str(number).encode())


def publish(store: Store, rows: Rows) -> str:
    """A version of these rows; its packs are only said to be there."""
    paths = sorted(rows, key=str.encode)
    table = pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "content_id": [blake3_hex(rows[path][2].encode()) for path in paths],
            "size": pa.array([len(rows[path][2]) for path in paths], pa.int64()),
            "pack": [pack_id(rows[path][0]) for path in paths],
            "offset": pa.array([rows[path][1] * 4096 for path in paths], pa.int64()),
        }
    )
    names = [name for name, _ in COLUMNS]
    built = [one for _, one in building.put_parts(store, building.checked_parts([table], "rows"), names)]
    columns = [(name, str(kind)) for name, kind in COLUMNS]
    version, root = manifests.make_root(columns, [one.part for one in built])
    stores.put_if_absent(store, manifests.root_key(version), root)
    uses = tuple(versions.PackUse(pack, PACK, 1, 1) for pack in sorted(set(table["pack"].to_pylist())))
    size = sum(one.part.bytes for one in built)
    locations = tuple(one.locations for one in built)
    versions.write_available(store, versions.Available(version, len(rows), size, locations, uses))
    return version


def written_by_0_1_0(want: wanted.Want) -> None:
    """Turn the rows of a version into what release 0.1.0 wrote: without times, in layout 2."""
    uses = []
    for use in want.segments:
        with pq.ParquetFile(use.rows) as file:
            groups = [
                file.read_row_group(place).drop_columns(["mtime_s"]) for place in range(file.num_row_groups)
            ]
        use.rows.unlink()  # a hard link of other versions
        with pq.ParquetWriter(use.rows, groups[0].schema) as writer:
            for group in groups:
                writer.write_table(group)
        uses.append(
            [use.rows.name.removesuffix(".rows.parquet"), [use.rows.stat().st_size, use.sizes[1]], use.dead]
        )
    value = json.loads(want.index.read_bytes())
    want.index.write_text(json.dumps({**value, "layout": 2, "segments": uses}))


def assert_says(want: wanted.Want, rows: Rows) -> None:
    """Every answer of a want is that of its rows alone."""
    table = pa.concat_tables(wanted.read_rows(want.index, ["path", "size", "pack", "offset"]))
    paths = sorted(rows, key=str.encode)
    assert table["path"].to_pylist() == paths
    assert table["pack"].to_pylist() == [pack_id(rows[path][0]) for path in paths]
    assert table["offset"].to_pylist() == [rows[path][1] * 4096 for path in paths]
    assert table["size"].to_pylist() == [len(rows[path][2]) for path in paths]
    by_pack: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for path, (pack, block, content) in rows.items():
        by_pack[pack_id(pack)].append((block * 4096, path, content))
    assert [part.id for part in want.packs] == sorted(by_pack)
    assert (want.files, want.bytes) == (len(rows), sum(len(content) for _, _, content in rows.values()))
    for place, (part, got) in enumerate(zip(want.packs, wanted.read_packs(want), strict=True)):
        members = by_pack[part.id]
        assert (part.files, part.bytes, part.size) == (len(members), sum(len(m[2]) for m in members), PACK)
        assert (np.diff(got.offset) >= 0).all()
        named = wanted.paths_at(want, place, np.ones(len(got.offset), np.bool_))
        ids = [bytes(row).hex() for row in got.content_id]
        found = zip(got.offset.tolist(), named, ids, got.length.tolist(), strict=True)
        assert sorted(found) == sorted((at, path, blake3_hex(c.encode()), len(c)) for at, path, c in members)


_ROW = st.tuples(st.integers(0, 5), st.integers(0, 20), st.text("ab", max_size=4))
_PATHS = st.integers(0, 60).map(lambda number: f"d{number % 4}/{number:02d}.jpg")
_STEP = st.tuples(st.sampled_from(["save", "save", "save", "forget", "again"]), st.integers(0, 9))


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(_PATHS, _ROW, min_size=20, max_size=50),
    st.lists(st.tuples(st.dictionaries(_PATHS, _ROW, max_size=6), st.sets(_PATHS, max_size=6)), max_size=5),
    st.lists(_STEP, min_size=3, max_size=14),
)
@example(
    {f"d0/{n:02d}.jpg": (0, 0, "") for n in range(20)}, [({"d0/00.jpg": (1, 1, "")}, set())], [("save", 0)]
)
def test_versions_that_share_segments_say_what_their_rows_say(
    first: Rows, changes: list[tuple[Rows, set[str]]], steps: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        views = Path(folder) / "views"
        store = stores.open_store(StoreConfig(name="lake", idc="a", url=f"file://{folder}/store"))
        states = [first]
        for added, gone in changes:
            state = {path: row for path, row in (states[-1] | added).items() if path not in gone}
            states.append(state or first)
        # the same paths and bytes in other packs are the same version: its rows lie where they were put last
        put_last = {publish(store, state): state for state in states}
        published = list(put_last.items())
        saved: dict[str, tuple[wanted.Want, Rows]] = {}
        for what, number in steps:
            version, state = published[number % len(published)]
            if what == "forget":
                wanted.forget_want(views, version)
                saved.pop(version, None)
            elif what == "again" or version not in saved:
                saved[version] = wanted.save_want(store, views, version), state
        for version, (want, state) in saved.items():
            assert wanted.load_want(views, version) == want
            assert_says(want, state)
        for version in saved:
            wanted.forget_want(views, version)
        assert [path for path in views.rglob("*") if path.is_file() and path.suffix != ".kept"] == []


def nights(count: int) -> list[Rows]:
    """A year of nights in small: each adds twelve rows to 600."""
    rows: Rows = {f"a/{n:05d}": (n // 100, n % 100, f"c{n}") for n in range(600)}
    found = [rows]
    for night in range(count):
        added = {f"n{night:03d}/{n:02d}": (100 + night, n, f"n{night}-{n}") for n in range(12)}
        found.append(found[-1] | added)
    return found


def test_a_night_writes_what_changed_and_segments_stay_few(
    make_folder_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, views, written = make_folder_store(), tmp_path / "views", list[int]()
    write = segments.write_segment

    def counted(*arguments: object) -> segments.Segment:
        found = write(*arguments)  # type: ignore[arg-type]
        written.append(found.rows)
        return found

    monkeypatch.setattr(segments, "write_segment", counted)
    before = None
    for night, rows in enumerate(nights(20)):
        version = publish(store, rows)
        want = wanted.save_want(store, views, version)
        assert len(want.segments) <= 2 + math.log2(len(rows) / 12)
        if night in (1, 7, 20):
            assert_says(want, rows)
        if before is not None:
            wanted.forget_want(views, before)
        before = version
    nightly = written[1:]
    assert written[0] == 600 and nightly[0] < 30 and max(nightly) < 300
    assert sum(nightly) < 20 * 12 * 8  # each row a few times, not 20 times 840
    # what is on the disk: rows that are wanted, and those of parts that changed
    assert sum(json_rows(path) for path in views.glob("*.rows/*.json")) < 2 * len(nights(20)[-1])


def json_rows(said: Path) -> int:
    return segments.read_segment(said.parent, said.name.removesuffix(".json")).rows


def test_what_is_not_whole_is_saved_again_and_not_shared(
    make_folder_store: Callable[..., Store], tmp_path: Path
) -> None:
    store, views = make_folder_store(), tmp_path / "views"
    first, second = ((publish(store, rows), rows) for rows in nights(1))
    want = wanted.save_want(store, views, first[0])
    assert wanted.load_want(views, first[0]) == want
    with want.segments[0].packs.open("r+b") as file:
        file.truncate(100)
    assert wanted.load_want(views, first[0]) is None
    assert_says(wanted.save_want(store, views, second[0]), second[1])
    assert_says(wanted.save_want(store, views, first[0]), first[1])
    want.segments[0].rows.unlink()
    assert wanted.load_want(views, first[0]) is None
    value = json.loads(wanted.index_path(views, second[0]).read_text())
    wanted.index_path(views, second[0]).write_text(json.dumps({**value, "layout": 1}))
    assert wanted.load_want(views, second[0]) is None
    with pytest.raises(Corrupt, match="layout"):
        wanted.read_index(wanted.index_path(views, second[0]))


def test_rows_of_an_older_layout_are_read_from_the_store_again(
    make_folder_store: Callable[..., Store], tmp_path: Path
) -> None:
    store, views, rows = make_folder_store(), tmp_path / "views", nights(0)[0]
    version = publish(store, rows)
    views.mkdir()
    old = [views / f"{version}.parquet", views / f"{version}.packs.parquet"]
    for path in old:
        path.write_bytes(b"older")
    assert wanted.load_want(views, version) is None
    assert_says(wanted.save_want(store, views, version), rows)
    assert not any(path.exists() for path in old)


@pytest.mark.fault("A8")
def test_rows_of_release_0_1_0_have_no_times_until_they_are_read_anew(
    make_folder_store: Callable[..., Store], tmp_path: Path
) -> None:
    store, views = make_folder_store(), tmp_path / "views"
    first, second = [(publish(store, rows), rows) for rows in nights(1)]
    written_by_0_1_0(wanted.save_want(store, views, first[0]))
    old = wanted.load_want(views, first[0])
    assert old is not None and not old.has_times
    assert_says(old, first[1])
    (without,) = {tuple(table.column_names) for table in wanted.read_rows(old.index)}
    assert "mtime_s" not in without
    for version, rows in (second, first):  # neither shares segments without times
        want = wanted.save_want(store, views, version)
        assert want.has_times
        assert_says(want, rows)
        table = pa.concat_tables(wanted.read_rows(want.index, ["path", "mtime_s"]))
        ids = pa.array([blake3_hex(rows[path][2].encode()) for path in table["path"].to_pylist()])
        assert table["mtime_s"].to_pylist() == content_times(ids).tolist()


def test_a_pack_that_the_version_says_is_shorter_is_not_taken_on_trust(
    make_folder_store: Callable[..., Store], tmp_path: Path
) -> None:
    """Rows that are shared lie inside of the packs as each version has them, or are refused as rows from the store are."""
    store, views = make_folder_store(), tmp_path / "views"
    first, second = (publish(store, rows) for rows in nights(1))
    wanted.save_want(store, views, first)
    said = versions.read_available(store, second)
    short = tuple(versions.PackUse(use.id, 4096, 1, 1) for use in said.packs)
    versions.write_available(store, versions.Available(second, said.files, said.bytes, said.locations, short))
    with pytest.raises(Corrupt, match="outside the packs"):
        wanted.save_want(store, views, second)
    assert wanted.load_want(views, second) is None


def test_lists_stand_beside_whole_versions(make_folder_store: Callable[..., Store], tmp_path: Path) -> None:
    store, views, rows = make_folder_store(), tmp_path / "views", nights(0)[0]
    version, some = publish(store, rows), ["a/00007", "a/00500", "a/00501"]
    listed = wanted.save_want(store, views, version, "some", some)
    assert_says(listed, {path: rows[path] for path in some})
    assert_says(wanted.save_want(store, views, version), rows)  # a list has not all rows of a part
    wanted.forget_want(views, version)
    assert wanted.load_want(views, version, "some") == listed
    assert_says(listed, {path: rows[path] for path in some})
