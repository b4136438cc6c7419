"""Drives in the catalogue, with real packs, for tests of the lake."""

from __future__ import annotations

import pyarrow as pa

from lake import catalog, packs


def cut(
    store,
    folder,
    drive,
    count=20,
    vehicle="car",
    size=1000,
    output="720p",
    date="2026-06-01",
    recipe="ab" * 32,
):
    """A drive of `count` frames by a recipe; {path: bytes}."""
    names = [f"{output}/{vehicle}/{drive}/CAM/{n:019d}.jpg" for n in range(count)]
    data = [f"{drive}-{n}-".encode() * (size // 10) for n in range(count)]
    pack = packs.write_pack(folder / f"{drive}.tar", zip(names, data, strict=True))
    packs.put_pack(store, pack.id, folder / f"{drive}.tar")
    (folder / f"{drive}.tar").unlink()
    catalog.write_frames(
        store, table(pack, names, drive, vehicle, output, date, recipe), date, vehicle, drive, recipe
    )
    return dict(zip(names, data, strict=True))


def table(pack, names, drive, vehicle="car", output="720p", date="2026-06-01", recipe="ab" * 32):
    """FRAME_SCHEMA rows of the members of a pack."""
    count = len(names)
    return pa.table(
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
            "recipe": [recipe] * count,
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
