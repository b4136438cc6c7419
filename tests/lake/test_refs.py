"""Refs: they move forward only, one listing finds them all, and one that cannot be read stops nothing but itself."""

from __future__ import annotations

import time

import pytest

from lake import (
    catalog,
    erasure,
    garbage,
    holdings,
    lineage,
    publish,
    quarantine,
    refs,
    stores,
    trash,
    versions,
)
from lake.errors import Corrupt, NotFound
from lake.trash import DAY_NS, Retention
from lake.unreadable import Unreadable
from tests.lake.frames import cut

ALL = "select * from frames"


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))


def publish_files(store, tmp_path, dataset, files, tag=None):
    folder = tmp_path / f"files-{time.time_ns()}"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return publish.publish_folder(store, dataset, folder, tmp_path / "s", {}, tag)


def later(days):
    return lambda: time.time_ns() + int(days * DAY_NS)


def listings(monkeypatch):
    """The prefixes that are listed from now on."""
    seen = []
    for name in ("list_objects", "list_folders"):
        real = getattr(stores, name)

        def call(store, prefix, real=real):
            seen.append(prefix)
            return real(store, prefix)

        monkeypatch.setattr(stores, name, call)
    return seen


@pytest.mark.fault("C1")
def test_of_two_publishes_at_once_the_newer_keeps_latest_whoever_ends_last(make_store, tmp_path, monkeypatch):
    """The older one has its number, and is slow to move `latest` and its tag: the newer one is done by then."""
    store = make_store()
    publish_files(store, tmp_path, "a", {"x": b"0"}, tag="night")
    real, newer = refs.move_ref, []

    def slow(there, ref, *args, **kwargs):
        if not newer and ref.version != publish_of_one.version:
            newer.append(None)
            newer[0] = publish_files(store, tmp_path, "a", {"x": b"2"}, tag="night")
        return real(there, ref, *args, **kwargs)

    publish_of_one = refs.resolve(store, "a")
    monkeypatch.setattr(refs, "move_ref", slow)
    older = publish_files(store, tmp_path, "a", {"x": b"1"}, tag="night")
    assert (older.tag, newer[0].tag) == ("v2", "v3") and newer[0].stays == ()
    for tag in ("latest", "night"):
        assert refs.resolve(store, "a", tag).version == newer[0].version
    assert len(older.stays) == 2 and newer[0].version[:12] in older.stays[0]
    assert refs.resolve(store, "a", "v2").version == older.version, "it is published all the same"


@pytest.mark.fault("C1")
def test_a_publish_of_old_content_moves_latest_as_asked(make_store, tmp_path):
    store = make_store()
    first = publish_files(store, tmp_path, "a", {"x": b"1"})
    publish_files(store, tmp_path, "a", {"x": b"2"})
    again = publish_files(store, tmp_path, "a", {"x": b"1"})
    assert (again.tag, again.version, again.stays) == ("v1", first.version, ())
    assert refs.resolve(store, "a").version == first.version


@pytest.mark.fault("C1")
def test_a_deletion_of_a_drive_leaves_a_tag_that_was_published_meanwhile(
    make_folder_store, tmp_path, monkeypatch
):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    cut(store, tmp_path, "d2", 3)
    publish.publish_query(store, "a", ALL, tmp_path, {})
    real, newer = refs.tag_version, []

    def tag_version(there, dataset, version, origin, numbers=None):
        made = real(there, dataset, version, origin, numbers)
        if numbers is not None and not newer:
            newer.append(
                publish.publish_query(store, "a", "select * from frames where drive = 'd1'", tmp_path, {})
            )
            newer.append(publish_files(store, tmp_path, "a", {"other": b"1"}))
        return made

    monkeypatch.setattr(refs, "tag_version", tag_version)
    erasure.erase_drive(store, "car", "d2", tmp_path, dry_run=False)
    assert refs.resolve(store, "a").version == newer[1].version


@pytest.mark.fault("C7")
def test_a_drive_that_is_not_there_is_refused_with_near_names_and_no_report(make_folder_store, tmp_path):
    store, landing = make_folder_store(), make_folder_store("landing")
    cut(store, tmp_path, "2026-06-01-drive1", 2)
    stores.put(landing, "landing/car/2026-06-01-drive2/cam.mp4", b"1")
    for dry_run in (True, False):
        with pytest.raises(NotFound, match="2026-06-01-drive1") as caught:
            erasure.erase_drive(store, "car", "2026-06-01-drvie1", tmp_path, landing, dry_run=dry_run)
        assert "2026-06-01-drive2" in str(caught.value)
    assert list(stores.list_objects(store, "deletions/")) == []
    # one that was deleted may be deleted again: nothing is left to do
    erasure.erase_drive(store, "car", "2026-06-01-drive1", tmp_path, dry_run=False)
    assert erasure.erase_drive(store, "car", "2026-06-01-drive1", tmp_path, dry_run=False).objects == ()
    # and one whose deletion was killed before its report
    stores.put(store, "deletions/car-gone.begun.json", b"{}")
    assert erasure.erase_drive(store, "car", "gone", tmp_path, dry_run=False).objects == ()
    assert not stores.exists(store, "deletions/car-gone.begun.json")


def many_versions(store, tmp_path, count, datasets=2):
    """Versions that all hold two drives, spread over datasets, without a publish for each."""
    made = publish.publish_query(store, "d0", ALL, tmp_path, {})
    rows = next(iter(versions.rows(store, made.version)))
    for number in range(count):
        some = rows.slice(0, rows.num_rows - number)
        publish.publish_rows(store, f"d{number % datasets}", [some], some.schema, {})


@pytest.mark.fault("C8")
@pytest.mark.parametrize("dry_run", [True, False])
def test_deleting_a_drive_lists_no_more_for_more_versions(make_folder_store, tmp_path, monkeypatch, dry_run):
    counts = []
    for count in (3, 12):
        store = make_folder_store(f"lake{count}")
        cut(store, tmp_path, "d1", 20)
        cut(store, tmp_path, "d2", 20)
        many_versions(store, tmp_path, count)
        with monkeypatch.context() as patch:
            seen = listings(patch)
            done = erasure.erase_drive(store, "car", "d1", tmp_path, dry_run=dry_run)
        assert len(done.versions) == count
        assert seen.count("refs/") == 1
        counts.append(len(seen))
    assert counts[0] == counts[1], counts


@pytest.mark.fault("C8")
def test_collecting_and_listing_list_no_more_for_more_datasets_or_versions(
    make_folder_store, tmp_path, monkeypatch
):
    counts = []
    for datasets in (2, 9):
        store = make_folder_store(f"lake{datasets}")
        for number in range(datasets):
            for part in (b"1", b"2"):
                publish_files(store, tmp_path, f"d{number}", {"x": part + b"%d" % number})
            trash.set_retention(store, f"d{number}", Retention(1, 0))
        with monkeypatch.context() as patch:
            seen = listings(patch)
            assert len(refs.list_all_refs(store)) == 3 * datasets
            assert len(lineage.versions_of(store)) == 2 * datasets
            assert len(garbage.collect(store, tmp_path, dry_run=False, now_ns=later(1)).tags) == datasets
            assert len(garbage.collect(store, tmp_path, dry_run=False, now_ns=later(20)).expired) == datasets
            assert garbage.collect(store, tmp_path, dry_run=False, now_ns=later(40)).deleted
        counts.append(len(seen))
    assert counts[0] == counts[1], counts


BAD = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"dataset": "a"}',
    b'{"dataset": 1, "tag": [], "version": 2, "at_ns": "x"}',
]


@pytest.mark.fault("C9")
@pytest.mark.parametrize("bad", BAD)
def test_a_ref_that_cannot_be_read_is_named_and_the_others_are_there(make_folder_store, tmp_path, bad):
    store = make_folder_store()
    publish_files(store, tmp_path, "a", {"x": b"1"})
    publish_files(store, tmp_path, "b", {"x": b"2"})
    stores.put(store, "refs/a/v1.json", bad)
    found: list[Unreadable] = []
    assert [(ref.dataset, ref.tag) for ref in refs.list_all_refs(store, found)] == [
        ("a", "latest"),
        ("b", "v1"),
        ("b", "latest"),
    ]
    assert [one.key for one in found] == ["refs/a/v1.json"]
    with pytest.raises(Corrupt, match=r"refs/a/v1\.json"):
        refs.list_refs(store, "a")
    with pytest.raises(Corrupt, match="rollback"):
        refs.resolve(store, "a", "v1")
    assert refs.resolve(store, "a", refs.resolve(store, "a").version[:8]).tag == "latest"
    # its number is not given again
    assert publish_files(store, tmp_path, "a", {"x": b"3"}).tag == "v2"
    version = refs.resolve(store, "a").version
    refs.move_ref(store, refs.Ref("a", "v1", version, 1), over_unreadable=True)
    assert refs.resolve(store, "a", "v1").version == version


@pytest.mark.fault("C9")
def test_collection_keeps_every_version_while_a_ref_cannot_be_read_and_collects_the_rest(
    make_folder_store, tmp_path
):
    store = make_folder_store()
    named = publish_files(store, tmp_path, "a", {"x": b"1"})
    unnamed = publish_files(store, tmp_path, "gone", {"x": b"2"})
    for tag in ("v1", "latest"):
        stores.delete(store, refs.ref_key("gone", tag))
    good = stores.get(store, "refs/a/v1.json")
    stores.delete(store, "refs/a/latest.json")
    stores.put(store, "refs/a/v1.json", b"not a ref")
    stray = f"packs/ab/{'ab' * 32}.tar"
    stores.put(store, stray, b"of a publish that was killed")
    garbage.collect(store, tmp_path, dry_run=False)
    done = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(20))
    assert [one.key for one in done.unreadable] == ["refs/a/v1.json"]
    assert done.deleted == (stray,), "no version needs it, whatever the ref names"
    for version in (named.version, unnamed.version):
        assert versions.verify(store, version, tmp_path).problems == ()
    # once it can be read, what it does not name goes
    stores.put(store, "refs/a/v1.json", good)
    garbage.collect(store, tmp_path, dry_run=False, now_ns=later(20))
    done = garbage.collect(store, tmp_path, dry_run=False, now_ns=later(40))
    assert versions.available_key(unnamed.version) in done.deleted and done.unreadable == ()
    assert versions.verify(store, named.version, tmp_path).problems == ()


KEPT_FOR = {
    "root": ("manifests/parts/",),
    "available": ("packs/", "locations/"),
    "catalogue": ("packs/",),
    "trash": ("packs/", "locations/", "manifests/", "available/"),
    "retention": (),
    "marks": ("packs/", "locations/", "manifests/", "available/"),
}


@pytest.mark.fault("C9")
@pytest.mark.parametrize("kind", sorted(KEPT_FOR))
def test_collection_keeps_what_an_unreadable_object_may_need_and_goes_on(make_folder_store, tmp_path, kind):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    live = publish_files(store, tmp_path, "a", {"x": b"1"})
    binned = publish_files(store, tmp_path, "b", {"x": b"2"})
    publish_files(store, tmp_path, "unneeded", {"x": b"3"})
    publish_files(store, tmp_path, "a", {"x": b"4"})
    trash.set_retention(store, "a", Retention(1, 0))
    for ref in ("refs/unneeded/v1.json", "refs/unneeded/latest.json"):
        stores.delete(store, ref)
    garbage.collect(store, tmp_path, dry_run=False)
    trash.undelete(store, "a", "v1")
    trash.set_retention(store, "a", Retention(1, 10))
    trash.delete_tag(store, "b", "v1")
    stores.delete(store, "refs/b/latest.json")
    bad = {
        "root": f"manifests/roots/{live.version}.json",
        "available": versions.available_key(live.version),
        "catalogue": next(info.key for info in stores.list_objects(store, catalog.PREFIX)),
        "trash": next(info.key for info in stores.list_objects(store, f"{trash.PREFIX}b/")),
        "retention": "retention/a.json",
        "marks": garbage.MARKS,
    }[kind]
    was = stores.get(store, bad)
    stores.put(store, bad, b"PAR1 not this")
    before = {info.key for info in stores.list_objects(store, "")}
    done = garbage.collect(
        store, tmp_path, dry_run=False, grace_days=3, now_ns=later(4 if kind != "trash" else 9)
    )
    assert [one.key for one in done.unreadable] == [bad]
    gone = before - {info.key for info in stores.list_objects(store, "")}
    assert not [key for key in gone if key.startswith(KEPT_FOR[kind])], gone
    assert (len(done.deleted) > 0) is (kind not in ("trash", "marks")), "the rest is collected"
    if kind in ("root", "available", "catalogue", "trash"):
        stores.put(store, bad, was)
        version = binned.version if kind == "trash" else live.version
        assert versions.verify(store, version, tmp_path).problems == ()


@pytest.mark.fault("C9")
def test_other_lists_name_what_they_set_aside(make_folder_store, tmp_path):
    store = make_folder_store()
    for data in (b"1", b"2", b"3"):
        publish_files(store, tmp_path, "a", {"x": data})
    trash.delete_tag(store, "a", "v1")
    quarantine.add(store, "car", "d1", [], "f")
    entries = [info.key for info in stores.list_objects(store, "history/a/latest/")]
    stores.put(store, entries[0], b"?")
    stores.put(store, "quarantine/car/d2.json", b"?")
    stores.put(store, f"{trash.PREFIX}a/v9/{1:019d}.json", b"?")
    bad: list[Unreadable] = []
    assert [item.ref.tag for item in trash.trashed(store, unreadable=bad)] == ["v1"]
    assert [entry.drive for entry in quarantine.entries(store, bad)] == ["d1"]
    assert len(refs.history(store, "a", "latest", bad)) == 2
    assert {one.key.split("/")[0] for one in bad} == {"trash", "quarantine", "history"}
    began = int(entries[0].rpartition("/")[2].removesuffix(".json"))
    with pytest.raises(Corrupt, match="history/a/latest"):
        refs.was_at(store, "a", "latest", began)
    assert refs.was_at(store, "a", "latest", time.time_ns()).version == refs.resolve(store, "a").version
    assert trash.undelete(store, "a", "v1").tag == "v1"


@pytest.mark.fault("C9")
def test_a_broken_file_of_the_catalogue_is_named_to_whoever_asks(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    cut(store, tmp_path, "d2", 3)
    key = next(info.key for info in stores.list_objects(store, catalog.PREFIX) if "d1" in info.key)
    stores.put(store, key, b"no Parquet at all")
    with pytest.raises(Corrupt, match="d1-abab"):
        publish.publish_query(store, "a", ALL, tmp_path, {})
    with pytest.raises(Corrupt, match="d1-abab"):
        catalog.read_frames(store, "2026-06-01", "car", "d1", "ab" * 32)
    made = publish.publish_query(store, "a", "select * from frames where drive = 'd2'", tmp_path, {})
    # a summary of drives is made anew
    stores.put(store, holdings.holdings_key(made.version), b"no Parquet")
    assert [one.files for one in holdings.held_by(store, "d2", "car")] == [3]
    assert holdings.read_holdings(store, made.version).num_rows == 1
