"""Large drives over several tasks, as the DAG ingest_drives maps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from outlap_airflow import ingest

from lake import catalog, landing, stores
from lake.config import load_config
from lake.stores import landing_store
from outlap.synthetic import START_NS, Clip, make_recording
from transforms import shards

CUT: tuple[str, float | None] = ("keyframes", None)


def test_shards_of_a_large_drive_are_cut_by_tasks_and_taken_by_its_own(
    idcs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    clip = Clip(width=640, height=360, frames=6, gop=3, codec="libx264", params="threads=1")
    for camera in range(3):
        make_recording(folder / f"CAM_{camera}.mp4", clip, camera=camera)
    store = landing_store(load_config())
    landing.upload_drive(store, folder, "car1", "large", START_NS)
    seen = ingest.find_drives(None, None, *CUT, False)
    assert ingest.plan_cuts(seen, *CUT) == []
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    monkeypatch.setattr(shards.plan_shards, "__defaults__", (1,))
    monkeypatch.setattr(ingest, "MOST_DRIVES", 2)
    planned = json.loads(json.dumps(ingest.plan_cuts(seen, *CUT)))
    assert len(planned) == 2 and planned[0]["shard_bytes"] > 1, "a run maps over no more than it may"
    done = [ingest.cut_shard(item, *CUT) for item in planned]
    assert sum(item["cut"] for item in done) == 3
    assert sum(ingest.cut_shard(item, *CUT)["kept"] for item in planned) == 3
    work = list(stores.list_objects(idcs.a, "work/"))
    assert len([info for info in work if info.key.endswith(".tar")]) == 3
    report = ingest.ingest_one(seen["to_ingest"][0], *CUT)
    assert (report["outcome"], report["frames"]) == ("ingested", 6)
    assert list(stores.list_objects(idcs.a, "work/")) == []
    assert [cut.drive for cut in catalog.drives_in(idcs.a)] == ["large"]
