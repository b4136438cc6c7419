from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake import catalog, erasure, garbage, holdings, leases, publish, refs, stores, sync, trash, versions
from lake import repack as packing
from lake.config import StoreConfig
from lake.errors import Conflict, NotFound, Refused
from lake.packs import pack_key
from lake.trash import DAY_NS
from tests.lake.frames import cut

ALL = "select * from frames"


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))


def folder_store(folder, name="lake"):
    return stores.open_store(StoreConfig(name=name, idc="i", url=f"file://{folder / name}"))


def keys(store):
    return {info.key for info in stores.list_objects(store, "")}


def readable(store, version):
    table = pa.concat_tables(versions.rows(store, version))
    return {
        row["path"]: stores.get_range(store, pack_key(row["pack"]), row["offset"], row["size"])
        for row in table.to_pylist()
    }


def folder_of(tmp_path, files):
    folder = tmp_path / f"files-{time.time_ns()}"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def publish_files(store, tmp_path, dataset, files, tag=None):
    return publish.publish_folder(store, dataset, folder_of(tmp_path, files), tmp_path, {}, tag)


def later(days):
    return lambda: time.time_ns() + int(days * DAY_NS)


def test_history_and_roll_back(make_store, tmp_path):
    store = make_store()
    made, moments = [], []
    for number in range(3):
        made.append(publish_files(store, tmp_path, "a", {"x": b"%d" % number}).version)
        moments.append(time.time_ns())
    assert [ref.version for ref in refs.history(store, "a")] == made
    assert [refs.was_at(store, "a", "latest", moment).version for moment in moments] == made
    with pytest.raises(NotFound, match="younger"):
        refs.was_at(store, "a", "latest", 1)
    old = refs.was_at(store, "a", "latest", moments[0])
    refs.move_ref(store, refs.Ref("a", "latest", old.version, old.at_ns, old.origin))
    assert refs.resolve(store, "a").version == made[0]
    assert [ref.version for ref in refs.history(store, "a")] == [*made, made[0]]
    with pytest.raises(NotFound, match="v1"):
        refs.history(store, "a", "nothing")


def test_trash_keeps_and_gives_back(make_folder_store, tmp_path):
    store = make_folder_store()
    first = publish_files(store, tmp_path, "a", {"x": b"1"})
    second = publish_files(store, tmp_path, "a", {"x": b"2"})
    trash.delete_tag(store, "a", "v1")
    with pytest.raises(NotFound, match="has: v2, latest"):
        refs.resolve(store, "a", "v1")
    assert [item.ref.version for item in trash.trashed(store)] == [first.version]
    done = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(13))
    assert (done.marked, done.deleted) == (0, ())
    assert trash.undelete(store, "a", "v1").version == first.version
    assert readable(store, refs.resolve(store, "a", "v1").version) == {"x": b"1"}
    assert trash.trashed(store) == []
    with pytest.raises(NotFound, match="there is: nothing"):
        trash.undelete(store, "a", "v1")
    trash.delete_tag(store, "a", "latest")
    refs.move_ref(store, refs.Ref("a", "latest", first.version, 1))
    with pytest.raises(Conflict, match="names"):
        trash.undelete(store, "a", "latest")
    # a number that was deleted is not given to another version
    trash.delete_tag(store, "a", "v2")
    assert publish_files(store, tmp_path, "a", {"x": b"3"}).tag == "v3"
    assert second.tag == "v2"


def test_garbage_goes_after_trash_and_grace(make_store, tmp_path):
    store = make_store()
    keep = publish_files(store, tmp_path, "keep", {"x": b"1", "y": b"both"})
    before = keys(store)
    gone = publish_files(store, tmp_path, "gone", {"x": b"2", "y": b"both"})
    for tag in ("v1", "latest"):
        trash.delete_tag(store, "gone", tag)
    dry = garbage.collect(store, tmp_path, now_ns=later(15))
    assert dry.expired == ("gone@v1", "gone@latest") and dry.dry_run and dry.marked > 0 and dry.deleted == ()
    all_keys = keys(store)
    first = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(15))
    assert first.marked == dry.marked and first.deleted == ()
    assert keys(store) - {garbage.MARKS} < all_keys, "only the entries of the trash went"
    assert readable(store, gone.version)
    second = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(28))
    assert second.deleted == ()
    planned = garbage.collect(store, tmp_path, now_ns=later(30))
    third = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(30))
    assert third.deleted == planned.deleted and len(third.deleted) == first.marked and third.deleted_bytes > 0
    left = {key for key in keys(store) if not key.startswith(("history/", "trash/"))}
    assert left == before
    assert readable(store, keep.version) == {"x": b"1", "y": b"both"}
    with pytest.raises(NotFound):
        versions.read_available(store, gone.version)
    # and again as if it had never been
    assert publish_files(store, tmp_path, "gone", {"x": b"2", "y": b"both"}).version == gone.version
    assert readable(store, gone.version)


def test_what_is_needed_again_is_unmarked_and_pins_and_catalogue_keep(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    pinned = publish_files(store, tmp_path, "pinned", {"x": b"pin"})
    again = publish_files(store, tmp_path, "again", {"x": b"again"})
    for dataset in ("pinned", "again"):
        for tag in ("v1", "latest"):
            stores.delete(store, refs.ref_key(dataset, tag))
    for days in (0, 20):
        garbage.collect(store, tmp_path, [pinned.version], dry_run=False, now_ns=later(days))
        if not days:
            publish_files(store, tmp_path, "again", {"x": b"again"})
    assert readable(store, pinned.version) == {"x": b"pin"}
    assert readable(store, again.version) == {"x": b"again"}
    assert publish.publish_query(store, "d", ALL, tmp_path, {}).files == 3
    assert garbage.collect(store, tmp_path, now_ns=later(40)).marked > 0, "the pin is over"


def test_nothing_is_deleted_while_somebody_writes(make_folder_store, tmp_path, monkeypatch):
    store = make_folder_store()
    made = publish_files(store, tmp_path, "a", {"x": b"1"})
    for tag in ("v1", "latest"):
        stores.delete(store, refs.ref_key("a", tag))
    garbage.collect(store, tmp_path, dry_run=False)
    with leases.writing(store, "the sync of b@v1"):
        done = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(20))
    assert done.held_by == ("the sync of b@v1",) and done.deleted == ()
    assert readable(store, made.version)
    # a writer that comes while a collector deletes waits, then goes on
    monkeypatch.setattr(leases, "WAIT_S", 0.1)
    with leases.deleting(store) as lease:
        assert lease.writers == []
        with pytest.raises(Conflict, match="deleting"):
            publish_files(store, tmp_path, "b", {"x": b"1"})
        with pytest.raises(Conflict, match="another"), leases.deleting(store):
            pass
    assert [key for key in keys(store) if key.startswith("leases/")] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from lake import garbage, leases, stores, trash
from lake.config import StoreConfig
store = stores.open_store(StoreConfig(name="lake", idc="i", url=sys.argv[1]))
real, left = leases.delete_fenced, int(sys.argv[3])
def delete(store, key, *rest):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= not key.startswith("leases/")
    return real(store, key, *rest)
leases.delete_fenced = delete
garbage.collect(store, Path(sys.argv[2]), dry_run=False, grace_days=0)
"""


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_collector_that_is_killed_leaves_versions_whole_or_gone(
    make_folder_store, tmp_path, after, monkeypatch
):
    store = make_folder_store()
    made = publish_files(store, tmp_path, "a", {f"{n}": b"%d" % n for n in range(5)})
    for tag in ("v1", "latest"):
        stores.delete(store, refs.ref_key("a", tag))
    garbage.collect(store, tmp_path, dry_run=False, grace_days=0.001)
    command = [sys.executable, "-c", KILLED, store.where, str(tmp_path), str(after)]
    done = subprocess.run(command, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    if versions.is_available(store, made.version):
        assert len(readable(store, made.version)) == 5
    stores.delete(store, leases.DELETING)  # an hour later
    garbage.collect(store, tmp_path, dry_run=False, grace_days=0)
    assert not [
        key for key in keys(store) if key.startswith(("packs/", "manifests/", "available/", "locations/"))
    ]


ACTION = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 3), st.sampled_from("ab")),
    st.tuples(st.just("delete"), st.sampled_from(["v1", "v2", "latest"]), st.sampled_from("ab")),
    st.tuples(st.just("undelete"), st.sampled_from(["v1", "v2", "latest"]), st.sampled_from("ab")),
    st.tuples(st.just("collect"), st.integers(0, 30), st.just("a")),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ACTION, max_size=12))
def test_no_order_of_deleting_and_collecting_loses_what_a_tag_or_the_trash_names(tmp_path_factory, actions):
    """Up to 12 steps of publish, delete, undelete, collect with days between: what a tag or the trash names is whole."""
    tmp_path = tmp_path_factory.mktemp("keep")
    store, day = folder_store(tmp_path), 0
    for verb, what, dataset in actions:
        try:
            if verb == "publish":
                publish_files(store, tmp_path, dataset, {"same": b"-", "x": b"%d" % what})
            elif verb == "delete":
                trash.delete_tag(store, dataset, what)
            elif verb == "undelete":
                trash.undelete(store, dataset, what)
            else:
                day += what
                garbage.collect(store, tmp_path, dry_run=False, now_ns=later(day))
        except (NotFound, Conflict):
            pass  # nothing there to delete or to bring back
        named = [ref for name in refs.list_datasets(store) for ref in refs.list_refs(store, name)]
        for version in {ref.version for ref in (*named, *(item.ref for item in trash.trashed(store)))}:
            assert readable(store, version)["same"] == b"-"


def test_retention(make_folder_store, tmp_path):
    store = make_folder_store()
    made = [
        publish_files(store, tmp_path, "a", {"x": b"%d" % n}, tag="golden" if n == 1 else None).version
        for n in range(5)
    ]
    assert trash.read_retention(store, "a") is None
    with pytest.raises(Refused, match="one version"):
        trash.set_retention(store, "a", trash.Retention(0, 1))
    trash.set_retention(store, "a", trash.Retention(2, 10))
    assert garbage.collect(store, tmp_path, now_ns=later(9)).tags == ()
    assert garbage.collect(store, tmp_path, now_ns=later(11)).tags == ("a@v1", "a@v3")
    assert len(refs.list_refs(store, "a")) == 7, "a dry run changes nothing"
    garbage.collect(store, tmp_path, dry_run=False, now_ns=later(11))
    assert [ref.tag for ref in refs.list_refs(store, "a")] == ["v2", "v4", "v5", "golden", "latest"]
    assert trash.undelete(store, "a", "v3").version == made[2]
    trash.set_retention(store, "a", None)
    assert garbage.collect(store, tmp_path, now_ns=later(11)).tags == ()


def test_a_drive_is_deleted_everywhere(make_store, tmp_path):
    store = make_store()
    files = {}
    for drive in ("d1", "d2", "d3"):
        files |= cut(store, tmp_path, drive, 4, size=9000)
    cut(store, tmp_path, "d2", 2, vehicle="bus", size=500)
    stores.put(store, "raw/car/2026-06-01/d2/cam.mp4", b"raw")
    stores.put(store, "raw/car/2026-06-01/d20/cam.mp4", b"another drive")
    both = publish.publish_query(
        store, "both", "select * from frames where drive < 'd3'", tmp_path, {}, tag="gold"
    )
    publish.publish_query(store, "both", "select * from frames where drive = 'd1'", tmp_path, {})
    only = publish.publish_query(
        store, "only", "select * from frames where drive = 'd2' and vehicle = 'car'", tmp_path, {}
    )
    clean = publish.publish_query(store, "clean", "select * from frames where drive = 'd3'", tmp_path, {})
    thin = publish.publish_query(
        store, "thin", "select * from frames where frame_index = 0 and vehicle = 'car'", tmp_path, {}
    )
    mixed = packing.repack(store, thin.version, tmp_path / "s").left
    assert len(mixed) == 3, "one pack holds files of all three drives"
    trash.delete_tag(store, "only", "v1")
    landing = folder_store(tmp_path, "landing")
    stores.put(landing, "landing/car/d2/cam.mp4", b"as it came")
    stores.put(landing, "quarantine/car/d2.json", b"{}")
    stores.put(landing, "landing/car/d22/cam.mp4", b"another drive")
    plan = erasure.erase_drive(store, "car", "d2", tmp_path, landing)
    assert plan.dry_run and {one.old for one in plan.versions} == {both.version, only.version, thin.version}
    assert sum(one.files for one in plan.versions) == 4 + 4 + 1
    before = keys(store)
    report = erasure.erase_drive(store, "car", "d2", tmp_path, landing, dry_run=False)
    assert keys(landing) == {"landing/car/d22/cam.mp4"}
    assert {key for key in report.objects if ":" in key} == {
        "landing: landing/car/d2/cam.mp4",
        "landing: quarantine/car/d2.json",
    }
    assert holdings.held_by(store, "d2", "car") == []
    gone = {path: data for path, data in files.items() if "/d2/" in path}
    for key in keys(store):
        assert not any(data[:500] in stores.get(store, key) for data in gone.values()), key
    assert {cut_.drive for cut_ in catalog.drives_in(store) if cut_.vehicle == "car"} == {"d1", "d3"}
    assert ("bus", "d2") in {(cut_.vehicle, cut_.drive) for cut_ in catalog.drives_in(store)}
    assert "raw/car/2026-06-01/d2/cam.mp4" in report.objects
    assert stores.exists(store, "raw/car/2026-06-01/d20/cam.mp4")
    assert {key for key in report.objects if ":" not in key} <= before
    assert report.packs_made_anew == 1 and report.rest
    # tags: named ones follow, numbers go, `latest` of another version stays
    assert {ref.tag for ref in refs.list_refs(store, "both")} == {"v2", "v3", "gold", "latest"}
    gold = refs.resolve(store, "both", "gold")
    assert len(readable(store, gold.version)) == 6 and gold.origin["was"] == both.version
    assert (
        refs.resolve(store, "both").tag == "latest"
        and len(readable(store, refs.resolve(store, "both").version)) == 4
    )
    assert refs.list_refs(store, "only") == [] and trash.trashed(store) == []
    assert refs.resolve(store, "clean").version == clean.version and len(readable(store, clean.version)) == 4
    assert len(readable(store, refs.resolve(store, "thin").version)) == 2
    assert erasure.BETWEEN not in refs.list_datasets(store)
    assert [key for key in keys(store) if key.startswith("deletions/car-d2-")]
    # again: nothing is left to do, and nothing breaks
    again = erasure.erase_drive(store, "car", "d2", tmp_path, dry_run=False)
    assert (again.versions, again.objects) == ((), ())
    for name in ("both", "clean", "thin"):
        assert versions.verify(store, refs.resolve(store, name).version, tmp_path).problems == ()


def test_a_sync_holds_off_deletion_at_its_target(two_idcs, tmp_path, monkeypatch):
    here, there = two_idcs
    made = publish_files(here, tmp_path, "a", {"x": b"1"})
    seen = []
    appear = sync._appear
    monkeypatch.setattr(sync, "_appear", lambda *args: seen.append(leases.writers(there)) or appear(*args))
    sync.sync(here, there, "a", "latest", tmp_path / "s")
    assert seen == [["the sync of a@latest"]] and leases.writers(there) == []
    assert readable(there, made.version) == {"x": b"1"}
