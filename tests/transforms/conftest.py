"""A landing and a lake in directories, and recordings small enough to make for each test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lake import catalog, landing, packs, stores
from lake.config import StoreConfig
from lake.stores import Store, open_store
from outlap.synthetic import Clip, make_recording, read_frame_number
from transforms.ingest import IngestReport, ingest_drive
from transforms.recipe import Recipe

H264 = Clip(width=640, height=360, fps=10, frames=20, codec="libx264", gop=5, params="threads=1")


@dataclass
class Place:
    """Where a test ingests."""

    folder: Path
    landing: Store
    lake: Store

    def upload(self, files: Mapping[str, bytes], drive: str = "d1", **more: Any) -> landing.Drive:
        source = self.folder / "source" / drive
        for name, data in files.items():
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return landing.upload_drive(self.landing, source, "car", drive, **more)

    def ingest(self, drive: str = "d1", recipe: Recipe | None = None, **more: Any) -> IngestReport:
        return ingest_drive(
            self.landing, self.lake, "car", drive, recipe or Recipe(), self.folder / "scratch", **more
        )

    def rows(self, drive: str = "d1", recipe: str = "") -> pa.Table:
        found = [
            c
            for c in catalog.drives_in(self.lake)
            if c.drive == drive and (recipe or c.recipe).startswith(c.recipe)
        ]
        assert len(found) == 1
        return catalog.read_frames(self.lake, found[0].date, "car", drive, found[0].recipe)

    def jpeg(self, row: Mapping[str, Any]) -> bytes:
        return stores.get_range(self.lake, packs.pack_key(row["pack"]), row["offset"], row["size"])

    def objects(self, *, but: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Every object of the lake."""
        return {
            info.key: stores.get(self.lake, info.key)
            for info in stores.list_objects(self.lake, "")
            if not info.key.startswith(but)
        }

    def shown(self, output: str, **more: Any) -> dict[str, list[tuple[int, int]]]:
        """channel → (camera, frame number) read from each JPEG, after checking it against its row."""
        found: dict[str, list[tuple[int, int]]] = {}
        for row in self.rows(**more).to_pylist():
            if row["output"] == output:
                number = read_frame_number(self.jpeg(row))
                assert number[1] == row["frame_index"], row
                found.setdefault(row["channel"], []).append(number)
        return found


def new_place(folder: Path) -> Place:
    def directory(name: str) -> Store:
        return open_store(StoreConfig(name=name, idc="idc-a", url=f"file://{folder / name}"))

    return Place(folder, directory("landing"), directory("lake"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path)


@pytest.fixture(scope="session")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """make(camera=0, start_ns=…, **Clip fields) → bytes of an MP4; the same again is not made again."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, bytes] = {}

    def make(camera: int = 0, suffix: str = ".mp4", **fields: Any) -> bytes:
        name = repr((camera, suffix, sorted(fields.items())))
        if name not in made:
            start = {"start_ns": fields.pop("start_ns")} if "start_ns" in fields else {}
            path = folder / f"{len(made)}{suffix}"
            make_recording(path, replace(H264, **fields), camera=camera, **start)
            made[name] = path.read_bytes()
        return made[name]

    return make
