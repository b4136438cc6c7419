"""Signals of the vehicle: from files, logs and cameras to tags of frames."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlap.synthetic import START_NS
from tests.transforms import made
from tests.transforms.conftest import Place
from tests.transforms.test_gpmf import ROWS, klv, payload, recording
from tests.transforms.test_tags import frames_of, track_of
from transforms import signals
from transforms.errors import TransformError, Unreadable
from transforms.recipe import Recipe, Tag
from transforms.recordings import gpmf
from transforms.signals import Signal, made_of
from transforms.tags import tag_columns
from transforms.times import SECOND

COMPRESSED = "sensor_msgs/msg/CompressedImage"


def signal(*pairs: tuple[float, float | str]) -> Signal:
    """(seconds from START_NS, value)"""
    found = made_of([START_NS + int(at * SECOND) for at, _ in pairs], [value for _, value in pairs])  # type: ignore[arg-type]
    assert found is not None
    return found


def weather_of(named: dict[str, Signal], *seconds: int, **options: str) -> dict[str, list[Any]]:
    frames = frames_of(track_of([(48.0, 11.0)] * 3), *seconds)
    object.__setattr__(frames, "signals", named)
    return {k: v.to_pylist() for k, v in tag_columns(frames, [Tag(name="weather", options=options)]).items()}


def every_second(value: float, until: int = 120) -> Signal:
    return signal(*((at, value) for at in range(until + 1)))


WARM, COLD = signal((0, 12.0)), signal((0, -2.0))


@pytest.mark.parametrize(
    ("named", "weather"),
    [
        ({}, None),
        ({"temperature": WARM}, None),
        ({"rain": every_second(0.0)}, "dry"),
        ({"rain": every_second(0.4)}, "rain"),
        ({"rain": every_second(0.4), "temperature": WARM}, "rain"),
        ({"rain": every_second(0.4), "temperature": COLD}, "snow"),
        ({"can.body.wiper": every_second(2.0)}, "rain"),
        ({"wipers": every_second(0.0)}, "dry"),
        # one wash: 10 s of the minute
        ({"wiper": signal((0, 0.0), (100, 1.0), (110, 0.0))}, "dry"),
        ({"wiper": every_second(1.0), "fog_light": every_second(1.0)}, "fog"),
        ({"weather": signal((0, "hail")), "rain": every_second(0.0)}, "hail"),
        # said an hour ago
        ({"weather": signal((-3600, "hail")), "rain": every_second(0.0)}, "dry"),
        # heard of for the first time just now
        ({"wiper": signal((119, 1.0))}, None),
        ({"rain": signal((0, "text"))}, None),
    ],
)
def test_weather_is_what_the_signals_say(named: dict[str, Signal], weather: str | None) -> None:
    assert weather_of(named, 120)["weather"] == [weather]


def test_weather_of_a_fleet_with_names_of_its_own() -> None:
    named = {"CAN1.X_417": every_second(3.0), "T_OUT": COLD}
    found = weather_of(named, 120, wiper="CAN1.X_417", temperature="T_OUT")
    assert found == {"weather": ["snow"], "outside_c": [-2.0], "wiper_share": [1.0]}
    with pytest.raises(TransformError, match="wiper, rain"):
        weather_of(named, 120, wipe="CAN1.X_417")


def rainy(place: Place, files: dict[str, bytes], drive: str) -> list[dict[str, Any]]:
    place.upload(files, drive, start_ns=START_NS)
    report = place.ingest(drive, Recipe(tags=(Tag(name="weather"), Tag(name="imu"))))
    assert report.outcome == "ingested", report.findings
    return list(place.rows(drive).to_pylist())


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_file_of_signals_beside_the_recordings(
    place: Place, clip_bytes: Callable[..., bytes], kind: str
) -> None:
    times = [START_NS + at * SECOND for at in range(-60, 4)]
    if kind == "csv":
        lines = [f"{at},true,,3.5" for at in times]
        data = "\n".join(["timestamp_ns,rain,note,temperature_c", *lines]).encode()
    else:
        data = json.dumps([{"timestamp_ns": at, "rain": True, "temperature_c": 3.5} for at in times]).encode()
    rows = rainy(place, {"CAM.mp4": clip_bytes(), f"signals.{kind}": data}, kind)
    assert {(row["weather"], row["outside_c"]) for row in rows} == {("rain", 3.5)}


def cdr(values: bytes) -> bytes:
    return b"\0\1\0\0" + values


def cdr_imu(at_ns: int, x: float) -> bytes:
    head = made.cdr_header(at_ns)
    head += b"\0" * (-len(head) % 8)
    numbers = [0.0] * 13 + [0.1, 0.2, x] + [0.0] * 9 + [x, 2.0, 9.8] + [0.0] * 9
    return cdr(head + struct.pack("<37d", *numbers))


def cdr_temperature(at_ns: int, celsius: float) -> bytes:
    head = made.cdr_header(at_ns)
    return cdr(head + b"\0" * (-len(head) % 8) + struct.pack("<2d", celsius, 0.0))


def test_signals_of_a_log(place: Place) -> None:
    at = made.times(12)
    log = made.mcap(
        [
            ("/front/compressed", COMPRESSED, "cdr", made.jpegs(12)),
            ("/vehicle/rain", "std_msgs/msg/Float32", "cdr", [cdr(struct.pack("<f", 0.5))] * 12),
            ("/vehicle/fog_light", "std_msgs/msg/Bool", "cdr", [cdr(b"\0")] * 12),
            ("/vehicle/note", "std_msgs/msg/String", "cdr", [cdr(struct.pack("<I", 4) + b"abc\0")] * 12),
            (
                "/outside/temperature",
                "sensor_msgs/msg/Temperature",
                "cdr",
                [cdr_temperature(t, -1.5) for t in at],
            ),
            ("/imu/data", "sensor_msgs/msg/Imu", "cdr", [cdr_imu(t, float(n)) for n, t in enumerate(at)]),
            ("/vehicle/broken", "std_msgs/msg/Int64", "cdr", [cdr(b"\1")] * 12),
        ]
    )
    place.upload({"drive.mcap": log})
    recipe = Recipe(cut="all", tags=(Tag(name="weather"), Tag(name="imu")))
    report = place.ingest(recipe=recipe)
    assert [finding.rule for finding in report.findings] == ["messages-left-out"]
    rows = place.rows().to_pylist()
    assert {(row["weather"], row["outside_c"]) for row in rows[1:]} == {("snow", -1.5)}
    assert [row["acceleration_x"] for row in rows] == [float(n) for n in range(12)]
    assert {(row["acceleration_z"], row["rotation_x"]) for row in rows} == {(9.8, 0.1)}


def imu_stream(key: bytes, orientation: bytes, rows: list[tuple[int, int, int]], scale: int = 100) -> bytes:
    inner = klv(b"SCAL", b"s", 2, struct.pack(">h", scale)) + klv(b"ORIN", b"c", 1, orientation)
    inner += klv(key, b"s", 6, b"".join(struct.pack(">3h", *row) for row in rows))
    return klv(b"DEVC", b"\0", 1, klv(b"STRM", b"\0", 1, inner))


def test_motion_of_a_camera_in_its_own_file(place: Place, tmp_path: Path) -> None:
    data = imu_stream(b"ACCL", b"ZxY", [(981, 50, 25)] * 20) + payload(ROWS)
    data += imu_stream(b"GYRO", b"XYZ", [(1, 2, 3)] * 20)
    rows = rainy(place, {"CAM.mp4": recording(tmp_path / "a.mp4", [data, data])}, "camera")
    found = {tuple(row[name] for name in signals.IMU) for row in rows}
    assert found == {(-0.5, 0.25, 9.81, 0.01, 0.02, 0.03)}
    assert rows[0]["latitude"] == 48.0


def test_positions_of_newer_cameras() -> None:
    row = struct.pack(">7i2H", 480_000_000, 110_000_000, 0, 3000, 0, 9648, 28_800_000, 150, 3)
    blind = struct.pack(">7i2H", 480_000_000, 110_000_000, 0, 3000, 0, 9648, 28_800_000, 150, 0)
    scales = struct.pack(">9i", 10**7, 10**7, 1000, 1000, 100, 1, 1000, 100, 1)
    inner = klv(b"SCAL", b"l", 4, scales) + klv(b"GPS9", b"?", 32, row + blind + row)
    assert gpmf.fixes(klv(b"STRM", b"\0", 1, inner)) == [(48.0, 11.0, 3.0)] * 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"time,rain\n1,2\n", "timestamp_ns is missing"),
        (b"timestamp_ns,rain\nnoon,2\n", "no table of signals"),
        (b"timestamp_ns,rain\n12,2\n", "no signal with a value"),
        (b"timestamp_ns,rain\n", "no signal with a value"),
        (b"timestamp_ns,rain,rain\n12,2,3\n", "stands twice"),
        (b"\xff\xfe\0", "no table of signals"),
        (b"", "no table of signals"),
    ],
)
def test_files_that_are_no_signals(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "signals.csv"
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=why):
        signals.read_signals(path)


def test_a_bad_file_of_signals_refuses_the_drive(place: Place, clip_bytes: Callable[..., bytes]) -> None:
    place.upload({"CAM.mp4": clip_bytes(), "signals.json": b'{"timestamp_ns": 1}'}, start_ns=START_NS)
    report = place.ingest()
    assert [finding.rule for finding in report.findings] == ["bad-track"] and report.outcome == "quarantined"


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(-1e6, 1e6)), min_size=1, max_size=60), st.integers(0, 60)
)
def test_the_last_value_counts_and_means_are_those_of_the_window(
    pairs: list[tuple[int, float]], at: int
) -> None:
    found = made_of([START_NS + second * SECOND for second, _ in pairs], [value for _, value in pairs])
    assert found is not None
    last = dict(pairs)
    assert found.values.tolist() == [last[second] for second in sorted(last)]
    now = np.array([START_NS + at * SECOND])
    before = [second for second in last if at - 5 <= second <= at]
    value = signals.values_at(found, now, 5 * SECOND)[0]
    assert np.isnan(value) if not before else value == last[max(before)]
    window = [last[second] for second in last if abs(second - at) <= 2]
    mean = signals.means_at(found, now, 2 * SECOND)[0]
    assert np.isnan(mean) if not window else mean == pytest.approx(np.mean(window), abs=1e-3)


def test_signals_of_several_files_are_one() -> None:
    found = signals.joined(
        [
            {"a": signal((0, 1.0), (2, 3.0))},
            {"a": signal((1, 2.0)), "b": signal((0, "x"))},
            {"a": signal((5, "text"))},
        ]
    )
    assert found["a"].values.tolist() == [1.0, 2.0, 3.0] and found["b"].values.tolist() == ["x"]


def test_what_comes_too_often_is_thinned_and_a_signal_is_of_one_kind() -> None:
    samples = signals.Samples()
    for number in range(1000):
        samples.add(START_NS + number * 1_000_000, float(number))
    samples.add(START_NS + SECOND, "text")
    made_signal = signals.signals_of({"x": samples})["x"]
    assert len(made_signal.values) == 100 and not made_signal.is_text
