from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from lake import catalog, compare, packs, publish, refs, stores, sync, versions
from lake.canonical import blake3_hex
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.packs import pack_key


def cut(store, folder, drive, count=20, vehicle="car", size=1000, output="720p", date="2026-06-01"):
    """A drive in the catalogue, with a real pack."""
    names = [f"{output}/{vehicle}/{drive}/CAM/{n:019d}.jpg" for n in range(count)]
    data = [f"{drive}-{n}-".encode() * (size // 10) for n in range(count)]
    pack = packs.write_pack(folder / f"{drive}.tar", zip(names, data, strict=True))
    packs.put_pack(store, pack.id, folder / f"{drive}.tar")
    table = pa.table(
        {
            "path": names,
            "content_id": pack.members["content_id"],
            "size": pack.members["size"],
            "drive": [drive] * count,
            "channel": ["CAM"] * count,
            "timestamp_ns": pa.array(range(count), pa.int64()),
            "sample_id": [f"s{n}" for n in range(count)],
            "width": pa.array([1280] * count, pa.int32()),
            "height": pa.array([720] * count, pa.int32()),
            "recipe": ["r"] * count,
            "pack": [pack.id] * count,
            "offset": pack.members["offset"],
            "vehicle": [vehicle] * count,
            "date": [date] * count,
            "output": [output] * count,
            "frame_index": pa.array(range(count), pa.int64()),
            "is_key": [True] * count,
            "latitude": pa.nulls(count, pa.float64()),
            "longitude": pa.nulls(count, pa.float64()),
            "speed_mps": pa.nulls(count, pa.float64()),
        }
    ).cast(catalog.FRAME_SCHEMA)
    catalog.write_frames(store, table, date, vehicle, drive, "ab" * 32)
    return dict(zip(names, data, strict=True))


SQL = "select * from frames where output = '720p'"


def keys(store):
    return sorted((info.key, info.etag) for info in stores.list_objects(store, ""))


def contents(store, version):
    table = pa.concat_tables(versions.rows(store, version))
    return {
        row["path"]: stores.get_range(store, pack_key(row["pack"]), row["offset"], row["size"])
        for row in table.to_pylist()
    }


def test_a_version_is_its_files_and_comes_again_with_the_same_id(make_store, tmp_path):
    store = make_store()
    files = cut(store, tmp_path, "d1")
    first = publish.publish_query(store, "city", SQL, tmp_path, {})
    assert (first.tag, first.files, first.is_new) == ("v1", 20, True)
    assert contents(store, first.version) == files
    before = keys(store)
    again = publish.publish_query(store, "city", SQL, tmp_path, {})
    assert (again.version, again.tag, again.is_new) == (first.version, "v1", False)
    assert keys(store) == before
    files |= cut(store, tmp_path, "d2")
    second = publish.publish_query(store, "city", SQL, tmp_path, {}, tag="night")
    assert (second.tag, second.is_new) == ("v2", True)
    assert contents(store, second.version) == files
    assert [ref.tag for ref in refs.list_refs(store, "city")] == ["v1", "v2", "latest", "night"]
    assert refs.resolve(store, "city").version == second.version
    assert refs.resolve(store, "city", first.version[:8]).tag == "v1"
    found = compare.diff(store, first.version, second.version)
    assert (found.added.num_rows, found.removed.num_rows, found.changed.num_rows) == (20, 0, 0)
    assert versions.verify(store, second.version, tmp_path).problems == ()
    # another store, another time: the same id
    other = make_store()
    cut(other, tmp_path, "d1")
    assert publish.publish_query(other, "else", SQL, tmp_path, {"by": "x"}).version == first.version


def test_publishers_at_once_agree(make_store, tmp_path):
    store = make_store()
    cut(store, tmp_path, "d1", 5)
    with ThreadPoolExecutor(6) as pool:
        made = list(
            pool.map(lambda n: publish.publish_query(store, "a", SQL, tmp_path / str(n), {}), range(6))
        )
    assert {item.version for item in made} == {made[0].version} and refs.resolve(store, "a").version == made[
        0
    ].version


def test_folders_and_objects_are_packed(make_folder_store, tmp_path):
    store, other = make_folder_store(), make_folder_store("other")
    folder = tmp_path / "files"
    files = {"a": b"", "b/c": b"x" * 5000, "b/ü": b"y", "b!": b"z"}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        stores.put(other, f"in/{name}", data)
    one = publish.publish_folder(store, "f", folder, tmp_path, {})
    two = publish.publish_objects(store, "o", other, "in/", tmp_path, {})
    assert contents(store, one.version) == files and one.version == two.version


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("selec", "syntax"),
        ("select 1; select 2", "one SELECT"),
        ("drop view frames", "one SELECT"),
        ("select path from frames", "they lack"),
        ("select * from frames where false", "no file"),
        ("select * from frames union all select * from frames", "twice"),
        ("select * replace ('/x/' || path as path) from frames", "relative path"),
        (
            "select * replace ('a' || frame_index as path, content_id[1:60] as content_id) from frames",
            "is no hash",
        ),
        ("select *, [1] as tags from frames", "type of a tag"),
        ("select * from read_csv('/etc/passwd')", "reads only|Permission"),
        ("select * from nowhere", "nowhere"),
    ],
)
def test_queries_that_give_no_version(make_folder_store, tmp_path, sql, says):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    before = [key for key, _ in keys(store)]
    with pytest.raises((Refused, Corrupt), match=says):
        publish.publish_query(store, "a", sql, tmp_path, {})
    assert refs.list_datasets(store) == []
    assert [key for key, _ in keys(store) if key.startswith(("refs/", "available/", "manifests/roots"))] == []
    assert set(before) <= {key for key, _ in keys(store)}


def test_names(make_folder_store, tmp_path):
    store = make_folder_store()
    with pytest.raises(NotFound, match="no frames"):
        publish.publish_query(store, "a", SQL, tmp_path, {})
    cut(store, tmp_path, "d1", 3)
    with pytest.raises(Refused, match="dataset"):
        publish.publish_query(store, "../a", SQL, tmp_path, {})
    publish.publish_query(store, "a", SQL, tmp_path, {})
    with pytest.raises(NotFound, match="has: a"):
        refs.resolve(store, "b")
    with pytest.raises(NotFound, match="v1"):
        refs.resolve(store, "a", "v9")
    with pytest.raises(Refused, match="tag"):
        publish.publish_query(store, "a", SQL, tmp_path, {}, tag="abcdef")


def test_a_pack_that_is_gone_or_lies_is_not_published(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    pack = next(info.key for info in stores.list_objects(store, "packs/"))
    data = stores.get(store, pack)
    stores.delete(store, pack)
    with pytest.raises(NotFound, match="ingest"):
        publish.publish_query(store, "a", SQL, tmp_path, {})
    other = packs.write_pack(tmp_path / "x.tar", [("other", b"1")])
    stores.put_file(store, pack, tmp_path / "x.tar")
    with pytest.raises(Corrupt):
        publish.publish_query(store, "a", SQL, tmp_path, {})
    assert other.id not in pack
    stores.put(store, pack, data)
    assert publish.publish_query(store, "a", SQL, tmp_path, {}).files == 3


def test_same_recipe_other_rows_is_a_conflict(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", 3)
    cut(store, tmp_path, "d1", 3)
    with pytest.raises(Conflict):
        cut(store, tmp_path, "d1", 4)


def test_sync_moves_only_what_is_missing_and_the_ref_last(two_idcs, tmp_path):
    here, there = two_idcs
    files = cut(here, tmp_path, "d1")
    first = publish.publish_query(here, "city", SQL, tmp_path, {})
    with pytest.raises(NotFound, match="city"):
        refs.resolve(there, "city")
    seen: list[tuple[int, int]] = []
    report = sync.sync(
        here, there, "city", "latest", tmp_path / "s", lambda done, total: seen.append((done, total))
    )
    assert (report.packs_copied, report.dead) == (1, ()) and seen[-1][0] == seen[-1][1] == report.bytes_copied
    assert contents(there, first.version) == files and refs.resolve(there, "city").tag == "latest"
    before = keys(there)
    assert sync.sync(here, there, "city", "v1", tmp_path / "s").packs_copied == 0
    assert keys(there) == before
    cut(here, tmp_path, "d2")
    publish.publish_query(here, "city", SQL, tmp_path, {})
    paced: list[int] = []
    second = sync.sync(here, there, "city", "latest", tmp_path / "s", pace=paced.append)
    assert (second.packs_copied, second.packs_present) == (1, 1) and sum(paced) == second.bytes_copied
    assert versions.verify(there, second.version, tmp_path).problems == ()


def test_a_bad_pack_does_not_arrive_and_the_rest_does(two_idcs, tmp_path):
    here, there = two_idcs
    cut(here, tmp_path, "d1")
    cut(here, tmp_path, "d2")
    made = publish.publish_query(here, "city", SQL, tmp_path, {})
    victim = versions.read_available(here, made.version).packs[0].id
    good = stores.get(here, pack_key(victim))
    stores.put(here, pack_key(victim), good[:5000] + b"!" + good[5001:])
    report = sync.sync(here, there, "city", "latest", tmp_path / "s")
    assert report.packs_copied == 1 and len(report.dead) == 1 and "hash" in report.dead[0]
    assert refs.list_datasets(there) == [] and not versions.is_available(there, made.version)
    assert len(versions.verify(here, made.version, tmp_path).problems) >= 1
    stores.put(here, pack_key(victim), good)
    again = sync.sync(here, there, "city", "latest", tmp_path / "s")
    assert (again.packs_copied, again.dead) == (1, ())
    assert not [key for key, _ in keys(there) if "dead" in key]


KILLED = """
import os, signal, sys
from pathlib import Path
from lake.config import StoreConfig
from lake import stores, sync
url, other, scratch = sys.argv[1:]
here, there = (stores.open_store(StoreConfig(name="l", idc=i, url=u)) for i, u in (("a", url), ("b", other)))
sync.CHUNK = 64 << 10
def progress(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
sync.sync(here, there, "city", "latest", Path(scratch), progress)
"""


def test_a_killed_sync_goes_on_where_it_was(make_folder_store, tmp_path):
    here, there = make_folder_store("here"), make_folder_store("there", "idc-b")
    files = cut(here, tmp_path, "d1", 20, size=100_000)
    made = publish.publish_query(here, "city", SQL, tmp_path, {})
    arguments = [here.where, there.where, str(tmp_path / "s")]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert refs.list_datasets(there) == []
    moved: list[int] = []
    sync.sync(here, there, "city", "latest", tmp_path / "s", lambda size, total: moved.append(size / total))
    assert contents(there, made.version) == files
    assert max(moved) < 0.6, "the half that was fetched was fetched again"
    assert not list((tmp_path / "s").glob("*.partial"))


def test_ids_of_content():
    assert blake3_hex(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_the_query_of_a_version_gives_it_again_whatever_the_catalogue_has_learnt(make_store, tmp_path):
    store = make_store()
    cut(store, tmp_path, "d1")
    made = publish.publish_query(store, "city", SQL, tmp_path, {})
    cut(store, tmp_path, "d2")
    ref = refs.resolve(store, "city")
    before = keys(store)
    assert publish.rerun_query(store, ref, tmp_path) == made.version
    assert keys(store) == before
    newer = publish.publish_query(store, "city", SQL, tmp_path, {})
    assert publish.rerun_query(store, refs.resolve(store, "city"), tmp_path) == newer.version != made.version
    assert publish.rerun_query(store, refs.resolve(store, "city", "v1"), tmp_path) == made.version
    # a catalogue file that is deleted is told, and so is a snapshot that lies
    victim = next(info.key for info in stores.list_objects(store, "catalog/frames/") if "d1" in info.key)
    data = stores.get(store, victim)
    stores.delete(store, victim)
    with pytest.raises(NotFound, match=r"1 of the 1 catalogue files .* gone"):
        publish.rerun_query(store, ref, tmp_path)
    stores.put(store, victim, data)
    keys_of = [info.key for info in stores.list_objects(store, "catalog/snapshots/")]
    assert len(keys_of) == 2
    stores.put(store, keys_of[0], stores.get(store, keys_of[1]))
    with pytest.raises(Corrupt, match="hash"):
        for tag in ("v1", "v2"):
            publish.rerun_query(store, refs.resolve(store, "city", tag), tmp_path)


def test_a_version_that_no_query_made_cannot_be_run_again(make_folder_store, tmp_path):
    store = make_folder_store()
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_bytes(b"1")
    publish.publish_folder(store, "f", tmp_path / "f", tmp_path / "s", {})
    with pytest.raises(Refused, match="no query"):
        publish.rerun_query(store, refs.resolve(store, "f"), tmp_path)


def test_publishers_of_other_content_at_once_all_get_tags_of_their_own(make_store, tmp_path):
    store = make_store()
    for n in range(6):
        (tmp_path / f"f{n}").mkdir()
        (tmp_path / f"f{n}" / "a").write_bytes(b"%d" % n)
    with ThreadPoolExecutor(6) as pool:
        made = list(
            pool.map(
                lambda n: publish.publish_folder(store, "a", tmp_path / f"f{n}", tmp_path / f"s{n}", {}),
                range(6),
            )
        )
    assert {item.tag for item in made} == {f"v{n}" for n in range(1, 7)}
    assert {refs.resolve(store, "a", item.tag).version for item in made} == {item.version for item in made}
    assert len({item.version for item in made}) == 6
    assert refs.resolve(store, "a").version in {item.version for item in made}
