from __future__ import annotations

from pathlib import Path

import pytest

from lake import publish, stores, versions
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
