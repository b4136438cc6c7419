"""Cost follows the change: what is known from the version before is not read, asked for or written again."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from cacheengine import wanted
from lake import keptfiles, manifests, publish, refs, snapshots, stores, sync, verified, versions
from lake.catalog import snapshot_id
from lake.errors import Corrupt, NotFound
from lake.packs import pack_key
from lake.sync_settings import SyncSettings
from tests.lake.frames import cut

SQL = "select * from frames where output = '720p'"


class Seen:
    """Calls of lake.stores' library by name, and the keys that they spoke of."""

    def __init__(self, library) -> None:
        self._library, self.calls = library, []

    def __getattr__(self, name):
        found = getattr(self._library, name)
        if not callable(found):
            return found

        def call(store, key=None, *args, **kwargs):
            self.calls.append((name, key))
            return found(store, key, *args, **kwargs)

        return call

    def keys(self, prefix):
        return {key for _, key in self.calls if key and key.startswith(prefix)}


@pytest.fixture
def seen(monkeypatch):
    spy = Seen(stores.obstore)
    monkeypatch.setattr(stores, "obstore", spy)
    return spy


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of about eight rows, so that a few drives are many parts."""
    monkeypatch.setattr(manifests, "CUT_MASK", manifests.np.uint64(0x7))


def lake(make_folder_store, tmp_path, drives=8):
    store = make_folder_store()
    for number in range(drives):
        cut(store, tmp_path, f"d{number:02d}")
    return store


def test_a_publish_looks_at_new_packs_and_changed_parts_only(make_folder_store, tmp_path, small_parts, seen):
    store = lake(make_folder_store, tmp_path)
    first = publish.publish_query(store, "city", SQL, tmp_path, {})
    cut(store, tmp_path, "d99")
    root = manifests.read_root(store, first.version)
    seen.calls.clear()
    second = publish.publish_query(store, "city", SQL, tmp_path, {})
    new = {use.id for use in versions.read_available(store, second.version).packs} - {
        use.id for use in versions.read_available(store, first.version).packs
    }
    assert seen.keys("packs/") == {pack_key(pack) for pack in new} and len(new) == 1
    shared = {part.id for part in root.parts} & {
        part.id for part in manifests.read_root(store, second.version).parts
    }
    assert len(shared) >= len(root.parts) - 1
    assert not seen.keys("manifests/parts/") & {manifests.part_key(part) for part in shared}
    # the same as from nothing, in another store
    other = make_folder_store("other")
    for number in (*range(8), 99):
        cut(other, tmp_path, f"d{number:02d}")
    anew = publish.publish_query(other, "else", SQL, tmp_path, {})
    assert anew.version == second.version
    assert versions.read_available(other, anew.version) == versions.read_available(store, second.version)
    assert versions.verify(store, second.version, tmp_path).problems == ()


def test_a_row_that_the_version_before_has_elsewhere_is_checked(make_folder_store, tmp_path, small_parts):
    """The same path with other bytes, or in another place, is not taken on trust."""
    store = lake(make_folder_store, tmp_path, 2)
    first = publish.publish_query(store, "city", SQL, tmp_path, {})
    rows = pa.concat_tables(versions.rows(store, first.version)).combine_chunks()
    place = rows.schema.get_field_index("offset")
    moved = rows.set_column(place, "offset", pa.array([at + 4096 for at in rows["offset"].to_pylist()]))
    ids = rows.schema.get_field_index("content_id")
    lied = rows.set_column(ids, "content_id", pa.array(["0" * 64, *rows["content_id"].to_pylist()[1:]]))
    for wrong in (moved, lied):
        with pytest.raises(Corrupt, match="does not list it so"):
            publish.publish_rows(store, "city", [wrong], wrong.schema, {})
    assert refs.resolve(store, "city").version == first.version


def test_a_latest_that_is_not_available_is_trusted_for_nothing(make_folder_store, tmp_path, seen):
    store = lake(make_folder_store, tmp_path, 2)
    first = publish.publish_query(store, "city", SQL, tmp_path, {})
    stores.delete(store, versions.available_key(first.version))
    seen.calls.clear()
    publish.publish_query(store, "city", SQL, tmp_path, {})
    assert len(seen.keys("packs/")) == 2
    assert versions.is_available(store, first.version)


@pytest.mark.fault("C5")
def test_a_sync_asks_the_target_for_nothing_that_a_young_verification_vouches_for(
    make_folder_store, tmp_path, small_parts, seen
):
    here, there = lake(make_folder_store, tmp_path), make_folder_store("there", "idc-b")
    first = publish.publish_query(here, "city", SQL, tmp_path, {})
    sync.sync(here, there, "city", "latest", tmp_path / "s")
    assert versions.verify(there, first.version, tmp_path).problems == ()
    verified.keep_verified(there, "city", first.version)
    cut(here, tmp_path, "d99")
    second = publish.publish_query(here, "city", SQL, tmp_path, {})
    plain = sync.plan(here, there, second.version)
    seen.calls.clear()
    known = sync.plan(here, there, second.version, "city")
    assert known.packs == plain.packs and known.packs_vouched == 8 and plain.packs_vouched == 0
    assert seen.keys("packs/") == {pack_key(known.packs[0].id)}
    assert "list" not in {name for name, _ in seen.calls}
    # one that is too old, or of a version that was repacked since, vouches for nothing
    seen.calls.clear()
    old = sync.plan(here, there, second.version, "city", settings=SyncSettings(verified_hours=0))
    assert old.packs_vouched == 0 and len(seen.keys("packs/")) == 9
    report = sync.sync(here, there, "city", "latest", tmp_path / "s")
    assert (report.packs_copied, report.packs_present, report.packs_vouched) == (1, 8, 8)
    assert versions.verify(there, second.version, tmp_path).problems == ()


def test_a_node_reads_the_parts_it_has_not_read_before(make_folder_store, tmp_path, small_parts, seen):
    store = lake(make_folder_store, tmp_path)
    first = publish.publish_query(store, "city", SQL, tmp_path, {})
    wanted.save_want(store, tmp_path / "views", first.version)
    cut(store, tmp_path, "d99")
    second = publish.publish_query(store, "city", SQL, tmp_path, {})
    seen.calls.clear()
    want = wanted.save_want(store, tmp_path / "views", second.version)
    assert want.files == 180
    old = {part.id for part in manifests.read_root(store, first.version).parts}
    assert seen.keys("manifests/parts/") == {
        manifests.part_key(part.id)
        for part in manifests.read_root(store, second.version).parts
        if part.id not in old
    }
    # a copy that went bad is read again from the store, and is no failure
    for copy in (tmp_path / "views" / "parts").rglob("*.kept"):
        copy.write_bytes(b"bad")
    for version in (first.version, second.version):
        wanted.forget_want(tmp_path / "views", version)
    assert wanted.save_want(store, tmp_path / "views", second.version).packs == want.packs


def test_copies_are_bounded_and_what_was_used_last_stays(tmp_path):
    for number in range(4):
        keptfiles.keep(tmp_path, f"k{number}", bytes([number]) * 100)
    assert keptfiles.read(tmp_path, "k0") == bytes(100)
    keptfiles.make_room(tmp_path, 250)
    assert keptfiles.read(tmp_path, "k0") is not None and keptfiles.read(tmp_path, "k1") is None
    keptfiles.forget(tmp_path, "k0")
    assert keptfiles.read(tmp_path, "k0") is None
    (tmp_path / "file").touch()
    keptfiles.keep(tmp_path / "file", "k", b"no room for this is no failure")


def test_refs_that_did_not_move_are_not_read_again(make_folder_store, tmp_path, monkeypatch, seen):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    store = make_folder_store()
    for number in range(3):
        cut(store, tmp_path, f"d{number}", count=2)
        publish.publish_query(store, "city", SQL, tmp_path, {})
    known = refs.list_refs(store, "city")
    seen.calls.clear()
    assert refs.list_refs(store, "city") == known
    assert [name for name, _ in seen.calls] == ["list"]
    refs.move_ref(store, replace(known[-1], version=known[0].version, origin={"by": "someone"}))
    assert refs.list_refs(store, "city")[-1].version == known[0].version


def test_a_query_of_an_earlier_catalogue_gives_the_version_of_then(make_folder_store, tmp_path):
    store = lake(make_folder_store, tmp_path, 2)
    files = [(info.key, info.etag or "") for info in stores.list_objects(store, "catalog/frames/")]
    snapshot = snapshots.keep_snapshot(store, sorted(files))
    first = publish.publish_query(store, "city", SQL, tmp_path, {})
    cut(store, tmp_path, "d99")
    then = publish.publish_query(
        store, "other", SQL, tmp_path, {}, among=snapshots.read_snapshot(store, snapshot)
    )
    assert then.version == first.version
    assert publish.publish_query(store, "city", SQL, tmp_path, {}).version != first.version
    # what the query excludes is in no snapshot of the version, also then
    day = "select * from frames where drive = 'd00'"
    among = snapshots.read_snapshot(store, snapshot)
    made = publish.publish_query(store, "day", day, tmp_path, {}, among=among)
    assert refs.resolve(store, "day").origin["catalog"] == snapshot_id(
        [pair for pair in among if "d00" in pair[0]]
    )
    assert publish.rerun_query(store, refs.resolve(store, "day"), tmp_path) == made.version
    with pytest.raises(NotFound, match="gone or changed"):
        publish.publish_query(store, "city", SQL, tmp_path, {}, among=[(files[0][0], "another")])
