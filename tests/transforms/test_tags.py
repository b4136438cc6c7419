"""Tags: known places and times give known values; the plug point takes users' taggers and names what is wrong with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg

from lake import catalog
from outlap.synthetic import START_NS
from tests.transforms import made
from tests.transforms.conftest import Place
from transforms import tags
from transforms.errors import TransformError
from transforms.recipe import Rate, Recipe, Tag, recipe_id
from transforms.tags import BUILT_IN, picture, tag_columns
from transforms.tags.mapfile import nearest_m
from transforms.tags.sun import elevation_deg, light_of
from transforms.tags.tagger import Frames, Tagger
from transforms.telemetry import Track, distances_m, positions_at
from transforms.times import SECOND, parse_moment


def track_of(places: list[tuple[float, float]], speed: float = np.nan) -> Track:
    """A fix each second from START_NS on."""
    found = np.array(places)
    times = START_NS + np.arange(len(places)) * SECOND
    return Track(times, found[:, 0], found[:, 1], np.full(len(places), speed))


def frames_of(track: Track, *seconds: int) -> Frames:
    times = START_NS + np.array(seconds, np.int64) * SECOND
    return Frames(
        "car", "d", ["CAM"] * len(times), times, positions_at([track], times), [track], lambda row: b""
    )


def tagged(frames: Frames, name: str, **options: int | str) -> dict[str, list[Any]]:
    return {k: v.to_pylist() for k, v in tag_columns(frames, [Tag(name=name, options=options)]).items()}


@pytest.mark.parametrize(
    ("moment", "latitude", "longitude", "degrees"),
    [
        # noon of a solstice: 90 - latitude + 23.44; of an equinox at the equator; midnight of a solstice: latitude - 90 - 23.44
        ("2026-06-21T12:01:50Z", 51.4779, 0.0, 61.96),
        ("2026-03-20T12:07:00Z", 0.0, 0.0, 89.9),
        ("2026-12-21T23:12:00Z", 48.137, 11.575, -65.3),
    ],
)
def test_the_sun_stands_where_it_should(
    moment: str, latitude: float, longitude: float, degrees: float
) -> None:
    at = parse_moment(moment)
    assert at is not None
    assert elevation_deg(at, latitude, longitude) == pytest.approx(degrees, abs=0.5)


def test_light() -> None:
    assert [light_of(value) for value in (30.0, 0.0, -0.1, -6.0, -6.1, np.nan)] == [
        "day",
        "day",
        "dusk",
        "dusk",
        "night",
        None,
    ]


def test_a_frame_without_a_position_has_no_sun_and_no_cell() -> None:
    frames = frames_of(track_of([(48.0, 11.0)] * 3), 1, 99)
    assert tagged(frames, "sun")["light"] == ["day", None]
    assert tagged(frames, "h3")["h3_9"][1] is None


def test_cells_hold_their_place() -> None:
    import h3

    frames = frames_of(track_of([(48.137, 11.575)] * 3), 1)
    for resolution in (5, 9, 12):
        (cell,) = tagged(frames, "h3", resolution=resolution)[f"h3_{resolution}"]
        assert h3.get_resolution(cell) == resolution
        latitude, longitude = h3.cell_to_latlng(cell)
        apart = distances_m(np.array([48.137, latitude]), np.array([11.575, longitude]))[0]
        assert apart < 1.2 * h3.average_hexagon_edge_length(resolution, unit="m")
    with pytest.raises(TransformError, match="resolution"):
        tagged(frames, "h3", resolution=16)


def test_motion_north_then_east_then_standing() -> None:
    step = 10 / 111_195  # ten metres north, in degrees
    north = [(48.0 + k * step, 11.0) for k in range(6)]
    east = [(north[-1][0], 11.0 + k * step / np.cos(np.radians(48.0))) for k in range(1, 6)]
    found = tagged(frames_of(track_of([*north, *east, *[east[-1]] * 5]), 2, 5, 8, 14), "motion")
    assert found["motion_mps"] == [
        pytest.approx(10, abs=0.05),
        pytest.approx(7.07, abs=0.05),
        pytest.approx(10, abs=0.05),
        0,
    ]
    assert found["heading_deg"] == [0.0, 45.0, 90.0, None]
    assert found["turn_deg_s"][1] == pytest.approx(45.0, abs=0.2)
    assert found["is_stopped"] == [False, False, False, True]


def test_the_receivers_own_speed_counts_and_the_date_line_is_no_wall() -> None:
    found = tagged(
        frames_of(track_of([(0.0, 179.9999), (0.0, -180.0), (0.0, -179.9999)], speed=3.0), 1), "motion"
    )
    assert (found["motion_mps"], found["heading_deg"]) == ([3.0], [90.0])


def test_distance_to_points_of_a_map(tmp_path: Path) -> None:
    path = tmp_path / "map.geojson"
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [lon, lat]},
            "properties": properties,
        }
        for lat, lon, properties in [
            (48.001, 11.0, {"kind": "junction"}),
            (48.1, 11.0, {"kind": "junction"}),
            (48.0, 11.01, {"highway": "traffic_signals"}),
        ]
    ]
    features.append(
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": []}, "properties": {}}
    )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = tagged(frames_of(track_of([(48.0, 11.0)] * 3), 1, 50), "map", map=str(path))
    assert found["junction_m"] == [pytest.approx(111.2, abs=0.2), None]
    assert found["traffic_signals_m"] == [pytest.approx(744, abs=1), None]
    before = recipe_id(Recipe(tags=(Tag(name="map", options={"map": str(path)}),)))
    other = tmp_path / "elsewhere.geojson"
    other.write_bytes(path.read_bytes())
    assert recipe_id(Recipe(tags=(Tag(name="map", options={"map": str(other)}),))) == before
    other.write_text("{}")
    with pytest.raises(TransformError, match=r"elsewhere\.geojson"):
        tagged(frames_of(track_of([(48.0, 11.0)] * 3), 1), "map", map=str(other))


def test_the_nearest_of_many_is_the_nearest() -> None:
    rng = np.random.default_rng(3)
    points = np.stack([rng.uniform(-90, 90, 300), rng.uniform(-180, 180, 300)], axis=1)
    latitude, longitude = rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)
    for lat, lon, found in zip(latitude, longitude, nearest_m(latitude, longitude, points), strict=True):
        every = [distances_m(np.array([lat, p[0]]), np.array([lon, p[1]]))[0] for p in points]
        assert found == pytest.approx(min(every), rel=1e-6, abs=0.1)


def measured(*pictures: np.ndarray) -> dict[str, np.ndarray]:
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(p), quality=90) for p in pictures]
    return picture.measure([lambda data=data: data for data in jpegs], range(len(jpegs)))


def test_brightness_sharpness_black_and_change() -> None:
    sharp = made.rgb(3)
    blurred = sharp.copy().astype(float)
    for _ in range(10):
        blurred[1:-1, 1:-1] = (
            blurred[:-2, 1:-1] + blurred[2:, 1:-1] + blurred[1:-1, :-2] + blurred[1:-1, 2:]
        ) / 4
    found = measured(
        sharp,
        blurred.astype(np.uint8),
        np.zeros_like(sharp),
        np.full_like(sharp, 200),
        np.full_like(sharp, 200),
    )
    assert found["brightness"][2:].tolist() == pytest.approx([0, 200, 200], abs=1)
    assert found["sharpness"][0] > 4 * found["sharpness"][1] > 4 * found["sharpness"][3]
    assert found["black"].tolist() == [0, 0, 1, 0, 0]
    assert np.isnan(found["change"][0]) and found["change"][1] > 0.05 and found["change"][4] == 0


def test_tags_are_columns_that_queries_see(place: Place, clip_bytes: Callable[..., bytes]) -> None:
    fixes = "\n".join(f"{START_NS + k * SECOND},48.1,{11.5 + k / 1e4}" for k in range(-2, 6))
    files = {"CAM.mp4": clip_bytes(), "GNSS.csv": b"timestamp_ns,latitude,longitude\n" + fixes.encode()}
    place.upload(files, start_ns=START_NS)
    assert place.ingest().outcome == "ingested"
    sql = "select * from frames where light = 'day' and not is_stopped and brightness > 10 and not partial"
    with catalog.query(place.lake, sql, place.folder / "q") as answer:
        rows = pa.concat_tables(list(answer.rows)).to_pylist()
    assert len(rows) == 4
    assert {row["heading_deg"] for row in rows} == {90.0}
    assert {row["h3_9"][:5] for row in rows} == {"891f8"}


def test_a_camera_that_hangs_and_one_that_is_covered_are_told(place: Place) -> None:
    at = made.times(6)
    hangs = [made.cdr_compressed(t, made.jpeg(min(n, 2))) for n, t in enumerate(at)]
    dark = simplejpeg.encode_jpeg(np.zeros((360, 640, 3), np.uint8))
    topics = [("/hangs", "sensor_msgs/msg/CompressedImage", "cdr", hangs)]
    topics.append(
        ("/dark", "sensor_msgs/msg/CompressedImage", "cdr", [made.cdr_compressed(t, dark) for t in at])
    )
    place.upload({"x.mcap": made.mcap(topics)})
    found = {(f.rule, f.evidence) for f in place.ingest(recipe=Recipe(cut=Rate(rate_mhz=10_000))).findings}
    assert ("black-frames", "6 of 6 cut frames, the first is frame 0") in found
    assert ("frozen-frames", "4 of 6 cut frames, from frame 2 on") in found


def users(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], version: int = 1, column: str = "mine"
) -> str:
    module = ModuleType("users_taggers")
    module.MINE = Tagger("mine", version, lambda options: {column: "int64"}, make)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_taggers", module)
    return "users_taggers:MINE"


def test_a_users_tagger_by_its_dotted_name(
    place: Place, clip_bytes: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = users(
        monkeypatch, lambda frames, options: {"mine": [len(frames.jpeg(row)) for row in range(len(frames))]}
    )
    recipe = Recipe(tags=(Tag(name=name),))
    place.upload({"CAM.mp4": clip_bytes()}, start_ns=START_NS)
    place.ingest(recipe=recipe)
    sizes = {row["mine"] for row in place.rows().to_pylist()}
    assert sizes == {row["size"] for row in place.rows().to_pylist()}
    first = recipe_id(recipe)
    users(monkeypatch, lambda frames, options: {}, version=2)
    assert recipe_id(recipe) != first


@pytest.mark.parametrize(
    ("make", "column", "why"),
    [
        (lambda frames, options: 1 / 0, "mine", "ZeroDivisionError"),
        (lambda frames, options: {"mine": [1]}, "mine", "1 values for 2"),
        (lambda frames, options: {"mine": ["a", "b"]}, "mine", "failed"),
        (lambda frames, options: {}, "mine", "KeyError"),
        (lambda frames, options: {"drive": [1, 2]}, "drive", "taken"),
        (lambda frames, options: {"Mine!": [1, 2]}, "Mine!", "no name"),
    ],
)
def test_a_tagger_that_breaks_its_word_is_named(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], column: str, why: str
) -> None:
    name = users(monkeypatch, make, column=column)
    with pytest.raises(TransformError, match=f"users_taggers:MINE.*{why}"):
        tagged(frames_of(track_of([(48.0, 11.0)] * 4), 1, 2), name)


@pytest.mark.parametrize("name", ["nobody", "no.such.module:X", "json:loads", "transforms.tags:nothing"])
def test_a_tagger_that_is_none(name: str) -> None:
    with pytest.raises(TransformError, match=name.split(":")[0]):
        recipe_id(Recipe(tags=(Tag(name=name),)))


def test_every_built_in_says_its_columns() -> None:
    assert set(BUILT_IN) == {"sun", "motion", "h3", "map", "picture", "weather", "imu"}
    names = [c for name, tagger in BUILT_IN.items() if name != "map" for c in tagger.columns({})]
    assert len(names) == len(set(names)) == 20


def test_a_users_tagger_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    users(monkeypatch, lambda frames, options: {"mine": [7] * len(frames)})
    entry = EntryPoint("installed", "users_taggers:MINE", "outlap.taggers")
    monkeypatch.setattr(
        tags,
        "entry_points",
        lambda group, name: [entry] if (group, name) == (entry.group, entry.name) else [],
    )
    assert tagged(frames_of(track_of([(48.0, 11.0)] * 4), 1, 2), "installed") == {"mine": [7, 7]}
    with pytest.raises(TransformError, match="absent"):
        recipe_id(Recipe(tags=(Tag(name="absent"),)))
