"""One drive, one current recipe: cut again, chosen, dropped, raced, and asked again as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lake import catalog, holdings, lineage, nights, publish, recipe_order, recipes, refs, stores, versions
from lake.erasure import erase_drive
from lake.errors import Conflict, NotFound, Refused
from lake.garbage import collect
from lake.split import parse_shares, split
from tests.lake.frames import cut, table

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
PLAIN = "select * from frames"


def count_by_recipe(store, folder, sql=PLAIN, only=None):
    """{first digits of a recipe and output: rows} of an answer."""
    with catalog.query(store, sql, folder / "q", only) as answer:
        rows = pa.concat_tables(answer.rows).select(["recipe", "output"]).to_pylist()
    found: dict[str, int] = {}
    for row in rows:
        name = f"{row['recipe'][:2]} {row['output']}"
        found[name] = found.get(name, 0) + 1
    return found


def cut_both(store, folder, recipe, count, outputs=("4k", "720p")):
    """A drive d1 with several outputs in one catalogue file."""
    from lake import packs

    tables = []
    for output in outputs:
        names = [f"{output}/car/d1/CAM/{n:019d}.jpg" for n in range(count)]
        data = ((name, f"{recipe[:2]}{name}".encode()) for name in names)
        pack = packs.write_pack(folder / "x.tar", data)
        packs.put_pack(store, pack.id, folder / "x.tar")
        tables.append(table(pack, names, "d1", output=output, recipe=recipe))
    catalog.write_frames(store, pa.concat_tables(tables), "2026-06-01", "car", "d1", recipe)


@pytest.mark.fault("C10")
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_drive_that_is_cut_again_shows_its_last_recipe_and_publishes(
    kind, make_store, make_folder_store, tmp_path
):
    store = make_store() if kind == "s3" else make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    cut(store, tmp_path, "d2", count=2, recipe=A)
    first = publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})
    cut(store, tmp_path, "d1", count=3, recipe=B)
    second = publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})
    assert (first.files, second.files) == (6, 5)
    assert count_by_recipe(store, tmp_path) == {"bb 720p": 3, "aa 720p": 2}
    every = "select * from frames_all where vehicle = 'car'"
    assert count_by_recipe(store, tmp_path, every) == {"aa 720p": 6, "bb 720p": 3}
    assert count_by_recipe(store, tmp_path, f"select * from frames_all where recipe = '{A}'") == {
        "aa 720p": 6
    }


@pytest.mark.fault("C10")
def test_a_superseded_file_is_not_even_fetched_and_one_listing_is_enough(
    make_folder_store, tmp_path, monkeypatch
):
    store = make_folder_store()
    for number in range(5):
        cut(store, tmp_path, f"d{number}", count=2, recipe=A)
        cut(store, tmp_path, f"d{number}", count=1, recipe=B)
        cut(store, tmp_path, f"d{number}", count=1, recipe=C)
    listed, fetched = [], []
    real_list, real_get = stores.list_objects, stores.get
    monkeypatch.setattr(stores, "list_objects", lambda s, p: listed.append(p) or real_list(s, p))
    monkeypatch.setattr(stores, "get", lambda s, k: fetched.append(k) or real_get(s, k))
    assert count_by_recipe(store, tmp_path) == {"cc 720p": 5}
    assert len(listed) == 2, "the catalogue and its marks, however many drives"
    assert {key.rpartition("-")[2][:2] for key in fetched} <= {"aa", "cc"}, (
        "the first recipe's outputs stand in no mark"
    )


@pytest.mark.fault("C10")
def test_recipes_are_current_by_output(make_folder_store, tmp_path):
    store = make_folder_store()
    cut_both(store, tmp_path, A, 4)
    cut_both(store, tmp_path, B, 3, ("720p",))
    assert count_by_recipe(store, tmp_path) == {"aa 4k": 4, "bb 720p": 3}
    publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})
    ref = refs.resolve(store, "front")
    # what became current since does not change the answer of then
    cut_both(store, tmp_path, C, 2)
    recipes.use_recipe(store, "car", "d1", A)
    assert count_by_recipe(store, tmp_path) == {"aa 4k": 4, "aa 720p": 4}
    assert publish.rerun_query(store, ref, tmp_path / "s") == ref.version


@pytest.mark.fault("C10")
def test_a_night_is_asked_again_as_it_was(make_folder_store, tmp_path):
    from lake.snapshots import read_snapshot

    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    cut(store, tmp_path, "d1", count=3, recipe=B)
    night = nights.fix(store, 10**18, 0)
    cut(store, tmp_path, "d1", count=2, recipe=C)
    recipes.use_recipe(store, "car", "d1", A)
    among = read_snapshot(store, night.snapshot)
    assert count_by_recipe(store, tmp_path, PLAIN, among) == {"bb 720p": 3}
    made = publish.publish_query(store, "night", PLAIN, tmp_path / "s", {}, among=among)
    assert publish.rerun_query(store, refs.resolve(store, "night"), tmp_path / "s") == made.version


def test_a_snapshot_of_an_older_release_hides_nothing(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    cut(store, tmp_path, "d1", count=3, recipe=B)
    pairs = [(info.key, info.etag) for info in stores.list_objects(store, catalog.PREFIX)]
    sql = f"select * from frames where recipe = '{A}'"
    assert count_by_recipe(store, tmp_path, sql, sorted(pairs)) == {"aa 720p": 4}


@pytest.mark.fault("C10")
def test_a_lake_without_marks_takes_the_newest_object(make_folder_store, tmp_path, monkeypatch):
    store = make_folder_store()
    with monkeypatch.context() as patch:
        patch.setattr(recipe_order, "mark_cut", lambda *args, **kwargs: None)  # as release 0.1.0 wrote
        cut(store, tmp_path, "d1", count=4, recipe=B)
        cut(store, tmp_path, "d1", count=3, recipe=A)
    keys = {key.rpartition("-")[2][:2]: key for key in _keys(store)}
    _set_time(tmp_path, keys["bb"], 1_000)
    _set_time(tmp_path, keys["aa"], 2_000)
    assert count_by_recipe(store, tmp_path) == {"aa 720p": 3}
    _set_time(tmp_path, keys["bb"], 3_000)
    assert count_by_recipe(store, tmp_path) == {"bb 720p": 4}
    _set_time(tmp_path, keys["aa"], 3_000)
    assert count_by_recipe(store, tmp_path) == {"bb 720p": 4}, "of equal times the greater recipe"
    # the next cut gives all of them marks, so that a copy of the store keeps their order
    cut(store, tmp_path, "d1", count=2, recipe=C)
    _set_time(tmp_path, keys["bb"], 9_999_999_999)
    assert count_by_recipe(store, tmp_path) == {"cc 720p": 2}


def _keys(store):
    return [info.key for info in stores.list_objects(store, catalog.PREFIX)]


def _set_time(folder, key, seconds):
    import os

    os.utime(folder / "stores" / "lake" / key, (seconds, seconds))


@pytest.mark.fault("C10")
def test_the_last_cut_is_later_whatever_the_clock_says(make_folder_store, tmp_path, monkeypatch):
    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=B)
    monkeypatch.setattr(recipe_order.time, "time_ns", lambda: 5)  # a writer whose clock is decades behind
    cut(store, tmp_path, "d1", count=3, recipe=A)
    assert count_by_recipe(store, tmp_path) == {"aa 720p": 3}
    assert recipes.use_recipe(store, "car", "d1", B) == "bb" * 8
    assert count_by_recipe(store, tmp_path) == {"bb 720p": 4}


@pytest.mark.fault("C10")
def test_a_choice_stays_until_a_person_takes_it_back(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    cut(store, tmp_path, "d1", count=3, recipe=B)
    recipes.use_recipe(store, "car", "d1", "aaaaaa")
    cut(store, tmp_path, "d1", count=2, recipe=C)
    assert count_by_recipe(store, tmp_path) == {"aa 720p": 4}
    listed = recipes.list_recipes(store, tmp_path / "s", "car", "d1")
    assert [(one.recipe[:2], one.current, one.is_chosen, one.files) for one in listed] == [
        ("aa", ("720p",), True, 4),
        ("cc", (), False, 2),
        ("bb", (), False, 3),
    ]
    assert recipes.use_recipe(store, "car", "d1", recipe_order.LAST_CUT) == "cc" * 8
    assert count_by_recipe(store, tmp_path) == {"cc 720p": 2}
    for bad, error in (("12", Refused), ("dddddd", NotFound)):
        with pytest.raises(error):
            recipes.use_recipe(store, "car", "d1", bad)
    with pytest.raises(NotFound, match="recipes ls"):
        recipes.use_recipe(store, "car", "d9", "aaaaaa")


@pytest.mark.fault("C10")
def test_dropping_takes_only_what_is_not_current_and_versions_stay(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})
    cut(store, tmp_path, "d1", count=3, recipe=B)
    with pytest.raises(Conflict, match="current one of 720p"):
        recipes.drop_recipe(store, tmp_path / "s", "car", "d1", B)
    dropped = recipes.drop_recipe(store, tmp_path / "s", "car", "d1", A)
    assert (dropped.files, dropped.recipe) == (4, "aa" * 8)
    assert [one.recipe for one in recipes.list_recipes(store, tmp_path / "s")] == ["bb" * 8]
    assert count_by_recipe(store, tmp_path, "select * from frames_all") == {"bb 720p": 3}
    collect(store, tmp_path, dry_run=False, grace_days=0)
    collect(store, tmp_path, dry_run=False, grace_days=0)
    assert versions.verify(store, refs.resolve(store, "front").version, tmp_path).problems == ()
    # cut again by what was dropped: it is the last cut
    cut(store, tmp_path, "d1", count=4, recipe=A)
    assert count_by_recipe(store, tmp_path) == {"aa 720p": 4}
    with pytest.raises(Conflict):
        recipes.drop_recipe(store, tmp_path / "s", "car", "d1", A)


@pytest.mark.fault("C10")
def test_many_writers_at_once_agree_on_one(make_store, tmp_path):
    """Eight recipes of a drive cut at the same time, on a real store: every reader sees one of them, and always the same."""
    store = make_store()
    ids = [f"{digit}{digit}" * 32 for digit in "12345678"]
    folders = [tmp_path / name[:2] for name in ids]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda pair: cut(store, pair[1], "d1", count=2, recipe=pair[0]),
                zip(ids, folders, strict=True),
            )
        )
    (seen,) = count_by_recipe(store, tmp_path)
    assert count_by_recipe(store, tmp_path) == {seen: 2}
    marks = recipe_order.read_marks(store)[("car", "d1")]
    assert {mark.recipe[:2] for mark in marks} >= {name[:2] for name in ids} - {seen[:2]} or len(marks) >= 7
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: recipes.use_recipe(store, "car", "d1", name), ids))
    (chosen,) = count_by_recipe(store, tmp_path)
    assert recipes.list_recipes(store, tmp_path / "s")[0].recipe[:2] == chosen[:2]


@pytest.mark.fault("C10")
def test_lineage_names_the_recipe_of_the_versions_own_rows(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    cut(store, tmp_path, "d2", count=4, recipe=A)
    old = publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})
    cut(store, tmp_path, "d1", count=3, recipe=B)
    new = publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})

    def named(version):
        return {one.drive: one.recipes for one in lineage.way_of(store, "front", version).drives}

    assert named(old.version) == {"d1": ("aa" * 8,), "d2": ("aa" * 8,)}
    assert named(new.version) == {"d1": ("bb" * 8,), "d2": ("aa" * 8,)}
    # a summary of release 0.1.0 has no recipes: they are read from the parts, once
    key = holdings.holdings_key(old.version)
    plain = pq.read_table(pa.BufferReader(stores.get(store, key))).select(holdings.SCHEMA.names)
    from lake.packs import parquet_bytes

    stores.put(store, key, parquet_bytes(plain))
    assert named(old.version) == {"d1": ("aa" * 8,), "d2": ("aa" * 8,)}
    assert "recipes" in pq.read_table(pa.BufferReader(stores.get(store, key))).schema.names
    # even when the drive is no longer in the catalogue by that recipe
    recipes.drop_recipe(store, tmp_path / "s", "car", "d1", A)
    assert named(old.version)["d1"] == ("aa" * 8,)
    split(store, refs.resolve(store, "front", "v1"), parse_shares("a=1,b=1"), {}, by="frame_index")
    assert {one.recipes for one in lineage.way_of(store, "front-a").drives} == {("aa" * 8,)}
    assert lineage.way_of_drive(store, "d1").drives[0].recipes == ("bb" * 8,)


@pytest.mark.fault("C10")
def test_deleting_a_drive_takes_all_its_recipes_and_marks(make_folder_store, tmp_path):
    store = make_folder_store()
    cut(store, tmp_path, "d1", count=4, recipe=A)
    cut(store, tmp_path, "d1", count=3, recipe=B)
    cut(store, tmp_path, "d2", count=3, recipe=B)
    recipes.use_recipe(store, "car", "d1", A)
    publish.publish_query(store, "front", PLAIN, tmp_path / "s", {})
    erase_drive(store, "car", "d1", tmp_path / "e", dry_run=False)
    left = [info.key for info in stores.list_objects(store, "") if "/d1" in info.key]
    assert [key for key in left if not key.startswith("deletions/")] == []
    assert count_by_recipe(store, tmp_path, "select * from frames_all") == {"bb 720p": 3}


def test_marks_are_read_back_as_they_were_written():
    marks = [
        recipe_order.Mark("car", "d-1", 7, "cut", "ab" * 8, frozenset({"4k", "a-b"})),
        recipe_order.Mark("car", "d-1", 7, "use", "ab" * 8),
        recipe_order.Mark("car", "d-1", 7, "use", recipe_order.LAST_CUT),
    ]
    assert [recipe_order.mark_of(recipe_order.mark_key(mark)) for mark in marks] == marks
    for other in (
        "catalog/current/x",
        "catalog/frames/date=1/vehicle=2/3-4.parquet",
        "catalog/current/a/b/c",
    ):
        assert recipe_order.mark_of(other) is None
    long = recipe_order.Mark("car", "d", 7, "cut", "ab" * 8, frozenset(f"{n:032d}" for n in range(4)))
    assert recipe_order.mark_of(recipe_order.mark_key(long)).outputs is None
