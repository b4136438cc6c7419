"""Lineage from what the lake keeps: up to drives and parents, down to children, by run and by drive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lake import catalog, lineage, refs
from lake.errors import NotFound
from lake.publish import publish_query
from lake.split import parse_shares, split
from tests.lake.frames import cut


@pytest.fixture
def store(make_folder_store: Any, tmp_path: Path) -> Any:
    """front v1 (two drives) → front-train, front-val → front-train-again; other has one drive only."""
    made = make_folder_store()
    for drive in ("d1", "d2"):
        cut(made, tmp_path, drive, count=6)
    origin = {"by": "airflow", "dag": "publish_dataset", "run": "r1"}
    publish_query(made, "front", "select * from frames", tmp_path / "s", origin, "night")
    shares = parse_shares("a=1,b=1")
    split(made, refs.resolve(made, "front"), shares, {"run": "r2"}, by="frame_index")
    split(made, refs.resolve(made, "front-a"), parse_shares("c=1,d=1"), {}, by="timestamp_ns", salt="x")
    publish_query(made, "other", "select * from frames where drive = 'd2'", tmp_path / "s", {})
    return made


def test_a_version_knows_its_drives_its_parents_and_its_children(store: Any) -> None:
    way = lineage.way_of(store, "front", "night")
    assert way.version.tags == ("v1", "latest", "night")
    assert [(one.vehicle, one.drive, one.files) for one in way.drives] == [("car", "d1", 6), ("car", "d2", 6)]
    assert way.drives[0].raw == ("raw/car/2026-06-01/d1",)
    assert way.drives[0].recipes == ("ab" * 8,)
    assert [one.dataset for one in way.children] == ["front-a", "front-b", "front-a-c", "front-a-d"]
    assert way.parents == ()
    deep = lineage.way_of(store, "front-a-c")
    assert [one.dataset for one in deep.parents] == ["front-a", "front"]
    assert deep.children == ()


def test_a_parent_that_is_gone_is_still_named(store: Any) -> None:
    parent = refs.resolve(store, "front-a").version
    for ref in refs.list_refs(store, "front-a"):
        refs.remove_ref(store, "front-a", ref.tag)
    (gone,) = lineage.way_of(store, "front-a-c").parents
    assert (gone.dataset, gone.version, gone.tags) == ("front-a", parent, ())


def test_a_drive_knows_the_versions_that_have_it(store: Any) -> None:
    way = lineage.way_of_drive(store, "d2")
    named = {made.dataset: files for made, files, _ in way.versions}
    assert set(named) >= {"front", "front-a", "front-b", "other"}
    assert (named["front"], named["other"]) == (6, 6)
    assert [drive.vehicle for drive in way.drives] == ["car"]
    assert [drive.drive for drive in lineage.way_of_drive(store, "d1", "car").drives] == ["d1"]
    for bad in (("d9", None), ("d1", "car2")):
        with pytest.raises(NotFound, match="check its name"):
            lineage.way_of_drive(store, *bad)


def test_a_run_knows_the_versions_that_it_made(store: Any) -> None:
    assert [made.dataset for made in lineage.made_by_run(store, "r1")] == ["front"]
    assert [made.dataset for made in lineage.made_by_run(store, "publish_dataset/r1")] == ["front"]
    assert sorted(made.dataset for made in lineage.made_by_run(store, "r2")) == ["front-a", "front-b"]
    assert lineage.made_by_run(store, "r9") == []
    assert len(catalog.drives_in(store)) == 2
