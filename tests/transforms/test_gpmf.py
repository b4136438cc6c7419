"""Positions in a data track of an MP4: where they are, when, and whatever else may stand there."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from outlap.synthetic import START_NS
from tests.transforms.conftest import Place
from transforms.recordings.gpmf import fixes, track_of
from transforms.times import SECOND


def klv(key: bytes, kind: bytes, size: int, data: bytes) -> bytes:
    return key + kind + bytes([size]) + struct.pack(">H", len(data) // size) + data + b"\0" * (-len(data) % 4)


def payload(rows: list[tuple[int, int, int, int, int]], lock: int = 3, scale: bool = True) -> bytes:
    inner = klv(b"STNM", b"c", 1, b"GPS") + klv(b"GPSF", b"L", 4, struct.pack(">L", lock))
    if scale:
        inner += klv(b"SCAL", b"l", 4, struct.pack(">5l", 10**7, 10**7, 1000, 1000, 100))
    inner += klv(b"GPS5", b"l", 20, b"".join(struct.pack(">5l", *row) for row in rows))
    stream = klv(b"STRM", b"\0", 1, inner)
    return klv(b"DEVC", b"\0", 1, klv(b"DVNM", b"c", 1, b"camera") + stream)


ROWS = [(480_000_000 + k * 100, 110_000_000, 500_000, 3000 + k, 0) for k in range(10)]


def recording(path: Path, payloads: list[bytes]) -> bytes:
    """A second of video for each payload."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        data = container.add_data_stream("bin_data")
        data.time_base = Fraction(1, 1000)
        for number in range(10 * len(payloads)):
            frame = av.VideoFrame.from_ndarray(np.full((270, 320), 90 + number, np.uint8), format="yuv420p")
            frame.pts = number
            container.mux(video.encode(frame))
            if number % 10 == 0:
                packet = av.Packet(payloads[number // 10])
                packet.stream, packet.time_base = data, Fraction(1, 1000)
                packet.pts = packet.dts = number * 100
                packet.duration = 1000
                container.mux(packet)
        container.mux(video.encode())
    return path.read_bytes()


def test_frames_get_the_positions_of_their_own_file(place: Place, tmp_path: Path) -> None:
    later = [(row[0] + 1000, *row[1:]) for row in ROWS]
    data = recording(tmp_path / "a.mp4", [payload(ROWS), payload(later)])
    place.upload({"CAM.mp4": data}, start_ns=START_NS)
    report = place.ingest()
    assert (report.outcome, report.findings) == ("ingested", ())
    rows = place.rows().to_pylist()
    assert rows[0]["timestamp_ns"] == START_NS
    assert (rows[0]["latitude"], rows[0]["longitude"], rows[0]["speed_mps"]) == (48.0, 11.0, 3.0)


def test_a_data_track_of_something_else_is_left_alone(place: Place, tmp_path: Path) -> None:
    place.upload({"CAM.mp4": recording(tmp_path / "a.mp4", [b"\0\0\1\2 timecodes"])}, start_ns=START_NS)
    assert place.ingest().outcome == "ingested"
    assert place.rows()["latitude"].null_count == len(place.rows())


def test_times_are_spread_over_the_payload() -> None:
    track = track_of([(0, SECOND, payload(ROWS)), (SECOND, SECOND, payload(ROWS[:5]))])
    assert track is not None
    assert track.times_ns.tolist() == [k * SECOND // 10 for k in range(10)] + [
        SECOND + k * SECOND // 5 for k in range(5)
    ]
    assert track.speed_mps[:3].tolist() == [3.0, 3.001, 3.002]


def test_without_a_lock_there_is_no_fix_and_without_divisors_the_usual_ones() -> None:
    assert fixes(payload(ROWS, lock=0)) == []
    assert track_of([(0, SECOND, payload(ROWS, lock=0))]) is None
    assert fixes(payload(ROWS, scale=False)) == fixes(payload(ROWS))
    outside = track_of([(0, SECOND, payload([(950_000_000, 0, 0, 0, 0), *ROWS]))])
    assert outside is not None and len(outside.times_ns) == len(ROWS)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_are_read_or_left(noise: bytes, at: int) -> None:
    whole = payload(ROWS)
    track = track_of([(0, SECOND, whole[:at] + noise + whole[at:]), (SECOND, SECOND, noise)])
    if track is not None:
        assert (np.diff(track.times_ns) > 0).all() and (np.abs(track.latitude) <= 90).all()


def test_deep_nesting_ends() -> None:
    data = b"x"
    for _ in range(50):
        data = klv(b"DEVC", b"\0", 1, data) if len(data) < 60_000 else data
    assert fixes(data) == []
