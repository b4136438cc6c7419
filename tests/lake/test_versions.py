from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake import publish, reading, stores, versions
from lake.config import StoreConfig
from lake.errors import LakeError
from lake.packs import pack_key
from tests.lake.frames import cut

SQL = "select * from frames"


@pytest.mark.parametrize("rows_in_memory", [1, 7, 25, 1000])
def test_verify_finds_each_wrong_file_however_rows_are_spilled(
    make_folder_store, tmp_path: Path, monkeypatch, rows_in_memory
):
    store = make_folder_store()
    for drive in ("d1", "d2", "d3"):
        cut(store, tmp_path, drive, 20)
    made = publish.publish_query(store, "city", SQL, tmp_path, {})
    monkeypatch.setattr(versions, "ROWS_IN_MEMORY", rows_in_memory)
    monkeypatch.setattr(versions, "PIECE", 1000)
    assert versions.verify(store, made.version, tmp_path).problems == ()
    victim = versions.read_available(store, made.version).packs[1]
    data = bytearray(stores.get(store, pack_key(victim.id)))
    rows = next(iter(versions.rows(store, made.version)))
    row = next(row for row in rows.to_pylist() if row["pack"] == victim.id)
    data[row["offset"] + 3] ^= 1
    stores.put(store, pack_key(victim.id), bytes(data))
    found = versions.verify(store, made.version, tmp_path)
    assert len(found.problems) == 2
    assert any(row["path"] in problem for problem in found.problems)
    stores.delete(store, pack_key(victim.id))
    assert "no such object" in versions.verify(store, made.version, tmp_path).problems[0]
    assert not [path for path in tmp_path.iterdir() if "verify" in path.name]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A store with one version of two drives, and its rows and bytes."""
    folder = tmp_path_factory.mktemp("published")
    store = stores.open_store(StoreConfig(name="p", idc="i", url=f"file://{folder / 'store'}"))
    files = cut(store, folder, "d1", 6) | cut(store, folder, "d2", 6)
    made = publish.publish_query(store, "city", SQL, folder, {})
    return store, made.version, files


def read(store, version):
    opened = reading.open_version(store, version)
    return dict(reading.read_rows(opened, pa.concat_tables(versions.rows(store, version))))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_damaged_object_gives_the_right_bytes_or_an_error(published, data):
    """A root, part, locations, availability or pack with bytes changed, cut or added: the right files, or an error that names it."""
    store, version, files = published
    kinds = ("manifests/", "locations/", "available/", "packs/")
    keys = [info.key for kind in kinds for info in stores.list_objects(store, kind)]
    key = data.draw(st.sampled_from(keys))
    good = stores.get(store, key)
    at, size = data.draw(st.integers(0, len(good) - 1)), data.draw(st.sampled_from([1, 1, 8, 100]))
    other = data.draw(st.sampled_from([good[:at], good[:at] + bytes(size) + good[at + size :]]))
    if data.draw(st.booleans()):
        other = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
    stores.put(store, key, other)
    try:
        assert read(store, version) == files
    except LakeError as error:
        assert error.why
    finally:
        stores.put(store, key, good)
    assert read(store, version) == files
