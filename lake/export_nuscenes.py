"""The tables of nuScenes, as JSON, for tools that read that layout; `filename` is the path in the version: dataroot is its mount.

Source: the nuScenes schema (nuscenes-devkit, docs/schema_nuscenes.md). What the lake does not know is said plainly: calibration
and ego pose are the identity, there are no annotations. Tokens are hashes, so the same version gives the same files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake import versions
from lake.canonical import blake3_hex
from lake.errors import Refused
from lake.export import Exported, whole
from lake.reading import Opened
from lake.refs import Ref

NEEDED = ("drive", "channel", "timestamp_ns")
EMPTY_TABLES = ("category", "attribute", "visibility", "instance", "sample_annotation")
IDENTITY = {"translation": [0.0, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
Row = Mapping[str, Any]


def token(*parts: object) -> str:
    """32 hex digits that name a record."""
    return blake3_hex("\0".join(str(part) for part in parts).encode())[:32]


def _write(folder: Path, name: str, rows: Iterable[Row]) -> str:
    with whole(folder / f"{name}.json") as path, path.open("w", encoding="utf-8") as out:
        out.write("[")
        for place, row in enumerate(rows):
            out.write(("," if place else "") + "\n" + json.dumps(row, ensure_ascii=False))
        out.write("\n]\n")
    return f"{folder.name}/{name}.json"


def _frames(opened: Opened) -> pa.Table:
    """Frames by drive, time and channel; other files of the version are left out. Raises Refused when there is no frame."""
    names = ["path", "drive", "channel", "timestamp_ns", "sample_id", "width", "height"]
    kept = []
    for part in versions.rows(opened.store, opened.version):
        place = [name for name in ("vehicle", "latitude", "longitude") if name in part.schema.names]
        there = pc.and_(
            pc.is_valid(part["drive"]),
            pc.and_(pc.is_valid(part["channel"]), pc.is_valid(part["timestamp_ns"])),
        )
        kept.append(part.select([*names, *place]).filter(there))
    table = pa.concat_tables(kept)
    if not table.num_rows:
        raise Refused(
            "export as nuScenes",
            f"no file has {', '.join(NEEDED)}",
            "publish frames (`--query`), or export Parquet",
        )
    keys = [(name, "ascending") for name in ("drive", "timestamp_ns", "channel", "path")]
    return table.sort_by(keys)


def export_nuscenes(opened: Opened, ref: Ref, folder: Path) -> Exported:
    """`<folder>/v1.0-<tag>/*.json`. Times are microseconds there."""
    rows = _frames(opened).to_pylist()
    for row in rows:
        row["sample"] = token("sample", row["drive"], row["sample_id"] or row["timestamp_ns"])
        row["token"] = token("sample_data", row["path"])
        row["us"] = row["timestamp_ns"] // 1000
    target = folder / f"v1.0-{ref.tag}"
    tables: dict[str, Iterable[Row]] = {
        **_places(rows),
        "sample": _samples(rows),
        "sample_data": _sample_data(rows),
        "map": [
            {
                "token": token("map"),
                "log_tokens": sorted({token("log", row["drive"]) for row in rows}),
                "category": "semantic_prior",
                "filename": "",
            }
        ],
        **{name: [] for name in EMPTY_TABLES},
    }
    outputs = tuple(_write(target, name, table) for name, table in tables.items())
    size = sum(pc.sum(part["size"]).as_py() for part in versions.rows(opened.store, opened.version))
    return Exported("nuscenes", str(folder), len(rows), size, outputs)


def _places(rows: list[dict[str, Any]]) -> dict[str, Iterable[Row]]:
    """Sensors, calibrations, logs, scenes and poses."""
    channels = sorted({row["channel"] for row in rows})
    by_drive: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_drive.setdefault(row["drive"], []).append(row)
    return {
        "sensor": [
            {"token": token("sensor", name), "channel": name, "modality": _modality(name)}
            for name in channels
        ],
        "calibrated_sensor": [
            {
                "token": token("calibrated", drive, name),
                "sensor_token": token("sensor", name),
                **IDENTITY,
                "camera_intrinsic": [],
            }
            for drive, frames in by_drive.items()
            for name in sorted({row["channel"] for row in frames})
        ],
        "log": [
            {
                "token": token("log", drive),
                "logfile": drive,
                "vehicle": frames[0].get("vehicle") or "",
                "date_captured": _date(frames[0]["timestamp_ns"]),
                "location": "",
            }
            for drive, frames in by_drive.items()
        ],
        "scene": [
            {
                "token": token("scene", drive),
                "log_token": token("log", drive),
                "nbr_samples": len({row["sample"] for row in frames}),
                "first_sample_token": frames[0]["sample"],
                "last_sample_token": _order(frames)[-1],
                "name": drive,
                "description": "",
            }
            for drive, frames in by_drive.items()
        ],
        "ego_pose": (
            {"token": token("pose", row["path"]), "timestamp": row["us"], **IDENTITY, **_position(row)}
            for row in rows
        ),
    }


def _position(row: Row) -> Row:
    """What GNSS said, where it is known: not a field of nuScenes, whose poses are metres on a map of theirs."""
    known = row.get("latitude") is not None and row.get("longitude") is not None
    return {"gnss": [row["latitude"], row["longitude"]]} if known else {}


def _date(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%d")


def _modality(channel: str) -> str:
    """camera, lidar or radar, as the name says; a frame is of a camera else."""
    return next((kind for kind in ("lidar", "radar") if kind in channel.lower()), "camera")


def _order(rows: Iterable[Row]) -> list[str]:
    """Samples in order of their first frame."""
    return list(dict.fromkeys(row["sample"] for row in rows))


def _samples(rows: list[dict[str, Any]]) -> Iterable[Row]:
    first: dict[str, dict[str, Any]] = {}
    by_drive: dict[str, list[str]] = {}
    for row in rows:
        if first.setdefault(row["sample"], row) is row:
            by_drive.setdefault(row["drive"], []).append(row["sample"])
    for drive, samples in by_drive.items():
        for place, sample in enumerate(samples):
            yield {
                "token": sample,
                "timestamp": first[sample]["us"],
                "scene_token": token("scene", drive),
                "prev": samples[place - 1] if place else "",
                "next": samples[place + 1] if place + 1 < len(samples) else "",
            }


def _sample_data(rows: list[dict[str, Any]]) -> Iterable[Row]:
    chains: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        chains.setdefault((row["drive"], row["channel"]), []).append(row["token"])
    places = {one: place for chain in chains.values() for place, one in enumerate(chain)}
    for row in rows:
        chain, place = chains[row["drive"], row["channel"]], places[row["token"]]
        yield {
            "token": row["token"],
            "sample_token": row["sample"],
            "ego_pose_token": token("pose", row["path"]),
            "calibrated_sensor_token": token("calibrated", row["drive"], row["channel"]),
            "timestamp": row["us"],
            "fileformat": PurePosixPath(row["path"]).suffix.lstrip("."),
            "is_key_frame": True,
            "height": row["height"] or 0,
            "width": row["width"] or 0,
            "filename": row["path"],
            "prev": chain[place - 1] if place else "",
            "next": chain[place + 1] if place + 1 < len(chain) else "",
        }
