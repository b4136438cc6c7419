"""Each format gives the frames that were put in, at the times that they were put in with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import zstandard
from mcap.reader import make_reader
from PIL import Image

from lake import landing
from lake.config import StoreConfig
from lake.errors import Corrupt, StoreDown
from lake.landing import LandedFile
from lake.stores import Store, exists, open_store, put, put_file, put_pieces
from outlap.synthetic import START_NS, read_frame_number
from tests.transforms import made
from tests.transforms.conftest import Place, new_place
from transforms import cutting, rules
from transforms.recipe import Rate, Recipe
from transforms.recordings import annexb
from transforms.recordings.formats import open_group
from transforms.recordings.logs import channel_names
from transforms.recordings.source import StoreSource, as_file, as_source
from transforms.seen import Seen, fetched, look_all

EVERY = Recipe(cut=Rate(rate_mhz=10_000))
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def padded(number: int) -> bytes:
    rows = made.rgb(number).reshape(made.HEIGHT, -1)
    return np.pad(rows, ((0, 0), (0, 64))).tobytes()


@cache
def logs() -> dict[str, bytes]:
    count = 12
    at = made.times(count)
    raw = [made.cdr_image(t, made.rgb(n).tobytes()) for n, t in enumerate(at)]
    units = made.video(count)
    hevc = made.video(count, "libx265")
    return {
        "jpeg": made.mcap([("/cam/image/compressed", COMPRESSED, "cdr", made.jpegs(count))]),
        "jpeg lz4": made.mcap(
            [("/cam/image/compressed", COMPRESSED, "cdr", made.jpegs(count))], compression="lz4"
        ),
        "jpeg without chunks' packing": made.mcap(
            [("/cam/image/compressed", COMPRESSED, "cdr", made.jpegs(count))], compression="none"
        ),
        "png": made.mcap(
            [
                (
                    "/cam",
                    COMPRESSED,
                    "cdr",
                    [made.cdr_compressed(t, made.png(n), "png") for n, t in enumerate(at)],
                )
            ]
        ),
        "raw": made.mcap([("/cam/image_raw", IMAGE, "cdr", raw)]),
        "raw with payloads packed": made.mcap(
            [("/cam/image_raw", IMAGE, "cdr", [made.zstd(p) for p in raw])]
        ),
        "raw with padded rows": made.mcap(
            [
                (
                    "/cam/image_raw",
                    IMAGE,
                    "cdr",
                    [made.cdr_image(t, padded(n), step=made.WIDTH * 3 + 64) for n, t in enumerate(at)],
                )
            ]
        ),
        "mono": made.mcap(
            [
                (
                    "/cam/image_raw",
                    IMAGE,
                    "cdr",
                    [
                        made.cdr_image(t, made.luma(n).tobytes(), "mono8", made.WIDTH)
                        for n, t in enumerate(at)
                    ],
                )
            ]
        ),
        "ros1 in mcap": made.mcap(
            [
                (
                    "/cam",
                    "sensor_msgs/CompressedImage",
                    "ros1",
                    [made.ros1_compressed(t, made.jpeg(n)) for n, t in enumerate(at)],
                )
            ]
        ),
        "protobuf": made.mcap(
            [
                (
                    "/cam",
                    "foxglove.CompressedImage",
                    "protobuf",
                    [made.proto_compressed(t, made.jpeg(n)) for n, t in enumerate(at)],
                )
            ]
        ),
        "json": made.mcap(
            [
                (
                    "/cam",
                    "foxglove.CompressedImage",
                    "json",
                    [made.json_compressed(t, made.jpeg(n)) for n, t in enumerate(at)],
                )
            ]
        ),
        "video in protobuf": made.mcap(
            [
                (
                    "/cam",
                    "foxglove.CompressedVideo",
                    "protobuf",
                    [made.proto_video(t, units[n]) for n, t in enumerate(at)],
                )
            ]
        ),
        "video in ros": made.mcap(
            [
                (
                    "/cam",
                    "foxglove_msgs/msg/CompressedVideo",
                    "cdr",
                    [made.cdr_video(t, units[n]) for n, t in enumerate(at)],
                )
            ]
        ),
        "h265 in protobuf": made.mcap(
            [
                (
                    "/cam",
                    "foxglove.CompressedVideo",
                    "protobuf",
                    [made.proto_video(t, hevc[n], "h265") for n, t in enumerate(at)],
                )
            ]
        ),
    }


LOGS = tuple(logs())


def all_frames(place: Place, channel: str, count: int = 12, camera: int = 0) -> None:
    """Every frame, by the number that is drawn in it, at its time."""
    report = place.ingest(recipe=EVERY)
    assert (report.outcome, report.findings) == ("ingested", ())
    assert place.shown("720p", recipe="") == {channel: [(camera, number) for number in range(count)]}
    found = sorted(row["timestamp_ns"] for row in place.rows().to_pylist())
    assert found == made.times(count)


@pytest.mark.parametrize("name", LOGS)
def test_a_log_gives_the_frames_that_were_put_in(place: Place, name: str) -> None:
    place.upload({"drive_0.mcap": logs()[name]})
    all_frames(place, "cam")


@pytest.mark.parametrize("compression", ["none", "bz2", "lz4"])
def test_ros1_bags(place: Place, compression: str) -> None:
    payloads = [made.ros1_compressed(t, made.jpeg(n)) for n, t in enumerate(made.times(12))]
    place.upload({"drive.bag": made.bag1("/cam/image_raw/compressed", payloads, compression)})
    all_frames(place, "cam")


def test_a_bag_that_another_library_wrote(place: Place, tmp_path: Path) -> None:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS1_NOETIC)
    path = tmp_path / "made.bag"
    writer = Writer(path)
    writer.set_compression(Writer.CompressionFormat.LZ4)
    with writer:
        kind = "sensor_msgs/msg/CompressedImage"
        connection = writer.add_connection("/cam/compressed", kind, typestore=types)
        for number, at in enumerate(made.times(12)):
            writer.write(connection, at, made.ros1_compressed(at, made.jpeg(number)))
    place.upload({"drive.bag": path.read_bytes()})
    all_frames(place, "cam")


def test_a_ros2_bag_of_sqlite_in_parts(place: Place, tmp_path: Path) -> None:
    payloads = made.jpegs(12)
    parts = {
        f"bag/drive_{part}.db3": made.db3(tmp_path / "x.db3", [("/cam", COMPRESSED, "cdr", payloads[a:b])], a)
        for part, (a, b) in enumerate([(0, 5), (5, 9), (9, 12)])
    }
    place.upload(parts)
    all_frames(place, "cam")


def test_video_goes_on_over_the_parts_of_a_log(place: Place) -> None:
    """The second part begins in the middle of a group of pictures: alone, its first frames would be lost."""
    units = made.video(12, gop=6)
    payloads = [made.proto_video(t, units[n]) for n, t in enumerate(made.times(12))]
    topic = ("/cam", "foxglove.CompressedVideo", "protobuf")
    place.upload(
        {
            "drive_0.mcap": made.mcap([(*topic, payloads[:4])]),
            "drive_1.mcap": made.mcap([(*topic, payloads[4:])], start=START_NS + 4 * made.STEP_NS),
        }
    )
    all_frames(place, "cam")


def test_files_that_rosbag2_packed_whole(place: Place) -> None:
    place.upload({"drive_0.mcap.zstd": made.zstd(logs()["jpeg"])})
    all_frames(place, "cam")


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".h264"), ("libx265", ".hevc")])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_raw_video_in_the_order_in_which_it_is_shown(
    place: Place, codec: str, suffix: str, b_frames: int
) -> None:
    stream = b"".join(made.video(12, codec, gop=8, b_frames=b_frames))
    sidecar = json.dumps({"fps": 10}).encode()
    place.upload({f"CAM{suffix}": stream, "CAM.json": sidecar}, start_ns=START_NS)
    all_frames(place, "CAM")


def test_raw_video_with_a_list_of_times(place: Place) -> None:
    uneven = [START_NS + number**2 * 10_000_000 for number in range(8)]
    sidecar = json.dumps({"timestamps_ns": uneven}).encode()
    place.upload({"CAM.h264": b"".join(made.video(8, gop=1)), "CAM.json": sidecar})
    assert place.ingest().outcome == "ingested"
    rows = place.rows().to_pylist()
    assert [(row["timestamp_ns"], row["frame_index"]) for row in rows] == [
        (t, n) for n, t in enumerate(uneven)
    ]


def test_units_are_found_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(made.video(6))
    path = tmp_path / "x.h264"
    path.write_bytes(data)
    whole = list(annexb.units(as_source(path)))
    assert len(whole) > 8
    for size in (1, 7, 100, 1000):
        if size < 7:
            path.write_bytes(data[:3000])
            whole = list(annexb.units(as_source(path)))
        monkeypatch.setattr(annexb, "BLOCK", size)
        assert list(annexb.units(as_source(path))) == whole
        monkeypatch.undo()
        path.write_bytes(data)
        whole = list(annexb.units(as_source(path)))


def test_nuscenes_and_argoverse_folders(place: Place) -> None:
    files: dict[str, bytes] = {}
    for number, at in enumerate(made.times(12)):
        folder = "samples" if number % 6 == 0 else "sweeps"
        name = f"n015-2026-06-01-08-00-00+0000__CAM_FRONT__{at // 1000}.jpg"
        files[f"{folder}/CAM_FRONT/{name}"] = made.jpeg(number, 0)
        files[f"sensors/cameras/ring_left/{at}.png"] = made.png(number, 1)
    place.upload(files)
    report = place.ingest(recipe=EVERY)
    assert (report.outcome, report.findings) == ("ingested", ())
    shown = place.shown("720p")
    assert shown == {"CAM_FRONT": [(0, n) for n in range(12)], "ring_left": [(1, n) for n in range(12)]}
    samples = {row["sample_id"] for row in place.rows().to_pylist()}
    assert len(samples) == 12


def test_clocks_that_were_never_set_agree_with_each_other(place: Place) -> None:
    """Argoverse's published times begin in 1980; the drive's start moves all channels by the same."""
    zero = 315_966_253 * 10**9
    files = {}
    for number in range(4):
        files[f"sensors/cameras/a/{zero + number * made.STEP_NS}.jpg"] = made.jpeg(number, 0)
        files[f"sensors/cameras/b/{zero + number * made.STEP_NS + 5_000_000}.jpg"] = made.jpeg(number, 1)
    place.upload(files, start_ns=START_NS)
    report = place.ingest(recipe=EVERY)
    assert report.outcome == "ingested"
    assert {finding.rule for finding in report.findings} == {"clock-from-drive"}
    found = {(row["channel"], row["timestamp_ns"] - START_NS) for row in place.rows().to_pylist()}
    assert {at for channel, at in found if channel == "b"} == {n * made.STEP_NS + 5_000_000 for n in range(4)}
    place.upload(files, "unset")
    (finding, *_) = place.ingest("unset").findings
    assert finding.rule == "no-time"


def test_a_preview_beside_a_video_is_no_channel(place: Place, clip_bytes: Callable[..., bytes]) -> None:
    place.upload({"CAM.mp4": clip_bytes(), "preview.jpg": made.jpeg(0)}, start_ns=START_NS)
    assert place.ingest().outcome == "ingested"
    assert set(place.rows()["channel"].to_pylist()) == {"CAM"}


def test_positions_and_calibrations_of_a_log(place: Place) -> None:
    at = made.times(12)
    place.upload(
        {
            "drive.mcap": made.mcap(
                [
                    ("/front/image/compressed", COMPRESSED, "cdr", made.jpegs(12)),
                    (
                        "/front/camera_info",
                        "sensor_msgs/msg/CameraInfo",
                        "cdr",
                        [made.cdr_info(at[0], 1, 2, 500.0)],
                    ),
                    (
                        "/gps/fix",
                        "sensor_msgs/msg/NavSatFix",
                        "cdr",
                        [made.cdr_fix(t, 48.0 + n / 1e5, 11.0) for n, t in enumerate(at)],
                    ),
                ]
            )
        }
    )
    report = place.ingest(recipe=EVERY)
    assert [finding.rule for finding in report.findings] == ["calibration-size"]
    assert "for 1x2, its pictures are 640x360" in report.findings[0].evidence
    rows = place.rows().to_pylist()
    assert [row["latitude"] for row in rows] == pytest.approx([48.0 + n / 1e5 for n in range(12)])


def test_tracks_of_gpx_and_json(place: Place, clip_bytes: Callable[..., bytes]) -> None:
    points = "".join(
        f'<trkpt lat="48.{n}" lon="11.5"><time>2026-06-01T08:00:0{n}.000Z</time></trkpt>' for n in range(3)
    )
    gpx = f'<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>{points}</trkseg></trk></gpx>'
    place.upload({"CAM.mp4": clip_bytes(), "ride.gpx": gpx.encode()}, "gpx", start_ns=START_NS)
    assert place.ingest("gpx").outcome == "ingested"
    assert place.rows("gpx")["latitude"].to_pylist()[0] == 48.0
    fixes = [
        {"timestamp_ns": START_NS + n * 10**9, "latitude": 47.0, "longitude": 11, "speed_mps": 3}
        for n in range(3)
    ]
    sidecar = json.dumps({"start_ns": START_NS, "fixes": fixes}).encode()
    place.upload({"CAM.mp4": clip_bytes(start_ns=None), "CAM.json": sidecar}, "json")
    assert place.ingest("json").outcome == "ingested"
    rows = place.rows("json").to_pylist()
    assert (rows[0]["latitude"], rows[0]["speed_mps"], rows[0]["timestamp_ns"]) == (47.0, 3.0, START_NS)


@pytest.mark.parametrize(
    "text",
    [
        "<gpx>",
        "",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><gpx/>",
        "<gpx><trkpt lat='x' lon='1'><time>2026-06-01T08:00:00Z</time></trkpt></gpx>",
    ],
)
def test_a_gpx_that_is_none(place: Place, clip_bytes: Callable[..., bytes], text: str) -> None:
    place.upload({"CAM.mp4": clip_bytes(), "ride.gpx": text.encode()}, start_ns=START_NS)
    report = place.ingest()
    rule = "bad-track" if text else "empty-file"
    assert [(f.rule, f.file) for f in report.findings if f.severity == "error"] == [(rule, "ride.gpx")]


def test_names_of_channels() -> None:
    assert channel_names(["/camera/front/image_raw/compressed"]) == {
        "/camera/front/image_raw/compressed": "camera.front"
    }
    both = ["/cam/image_raw", "/cam/image_raw/compressed"]
    assert channel_names(both) == {both[0]: "cam.image_raw", both[1]: "cam.image_raw.compressed"}
    assert channel_names(["/a b|c/image"]) == {"/a b|c/image": "a-b-c"}


def test_a_recording_is_read_from_a_store_by_ranges(tmp_path: Path, clip_bytes: Callable[..., bytes]) -> None:
    store = open_store(StoreConfig(name="s", idc="a", url=f"file://{tmp_path / 's'}"))
    for name, data in {
        "a.mcap": logs()["jpeg"],
        "b.mp4": clip_bytes(),
        "c.h264": b"".join(made.video(6)),
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        put_file(store, name, path)
        source = StoreSource(store, name, name, len(data))
        kind = {"a": "mcap", "b": "mp4", "c": "raw"}[name[0]]
        far = open_group(kind, [(name, source)], rate=Fraction(10)).channels[0]  # type: ignore[arg-type]
        near = open_group(kind, [(name, as_source(path))], rate=Fraction(10)).channels[0]  # type: ignore[arg-type]
        assert np.array_equal(far.index.pts, near.index.pts)
        places = range(len(near.index))
        assert [bytes(p) for p in far.packets(places)] == [bytes(p) for p in near.packets(places)]
        with as_file(source) as file:
            file.seek(-10, io.SEEK_END)
            assert file.read() == data[-10:]


def seen_of(folder: Path, files: dict[str, bytes], start: int | None = None) -> list[Seen]:
    found = []
    for number, (name, data) in enumerate(files.items()):
        path = folder / f"{number}"
        path.write_bytes(data)
        found.append(fetched(LandedFile(name, len(data), "", None, None), path))
    return look_all(found, start)


def rule_ids(drive: Sequence[Seen]) -> list[str]:
    return [finding.rule for finding in rules.judge(drive)]


def test_an_unchunked_mcap_and_one_cut_at_every_place(tmp_path: Path) -> None:
    data = made.mcap([("/cam", COMPRESSED, "cdr", made.jpegs(6))], chunk=5_000)
    counts = set()
    for length in range(8, len(data), len(data) // 40):
        seen = seen_of(tmp_path, {"x.mcap": data[:length]})
        ids = rule_ids(seen)
        assert "partial" in ids or "unreadable" in ids or "no-video" in ids, length
        counts.add(len(seen[0].index or ()))
    assert {0, 6} < counts


def test_a_bit_flipped_anywhere_in_an_mcap_is_told(tmp_path: Path) -> None:
    data = made.mcap([("/cam", COMPRESSED, "cdr", made.jpegs(3))])
    whole = rule_ids(seen_of(tmp_path, {"x.mcap": data}))
    assert whole == []
    for at in range(0, len(data), max(1, len(data) // 60)):
        spoiled = bytearray(data)
        spoiled[at] ^= 0x10
        assert rule_ids(seen_of(tmp_path, {"x.mcap": bytes(spoiled)})), at


def test_a_bag_that_was_never_closed(tmp_path: Path) -> None:
    payloads = [made.ros1_compressed(t, made.jpeg(n)) for n, t in enumerate(made.times(8))]
    data = made.bag1("/cam", payloads)
    seen = seen_of(tmp_path, {"x.bag": data[: len(data) * 3 // 4]})
    assert rule_ids(seen) == ["partial"] and len(seen[0].index or ()) == 4


def test_a_damaged_sqlite_bag(tmp_path: Path) -> None:
    data = bytearray(made.db3(tmp_path / "a.db3", [("/cam", COMPRESSED, "cdr", made.jpegs(12))]))
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
    ids = rule_ids(seen_of(tmp_path, {"x.db3": bytes(data)}))
    assert set(ids) & {"broken-container", "unreadable", "messages-left-out"}
    assert rule_ids(seen_of(tmp_path, {"x.db3": b"SQLite format 3\0" + b"\0" * 5000})) == ["unreadable"]


def test_the_real_ros1_bag_has_no_pictures() -> None:
    if not REAL.is_dir():
        pytest.skip("no real recordings lie beside the project (../shared/data)")
    path = REAL / "example.bag"
    (seen,) = look_all([fetched(LandedFile("example.bag", path.stat().st_size, "", None, None), path)], None)
    (finding,) = rules.judge([seen])
    assert finding.rule == "no-video"
    assert "tf/tfMessage" in finding.evidence


def test_the_real_mcap_with_packed_payloads(place: Place) -> None:
    if not REAL.is_dir():
        pytest.skip("no real recordings lie beside the project (../shared/data)")
    data = (REAL / "soccer_goal_12.mcap").read_bytes()
    place.upload({"soccer_goal_12.mcap": data}, "sim")
    # a simulator's clock: 8 s after 1970
    assert [f.rule for f in place.ingest("sim").findings if f.severity == "error"] == ["no-time"]
    place.upload({"soccer_goal_12.mcap": data}, "told", start_ns=START_NS)
    report = place.ingest("told")
    assert (report.outcome, report.frames) == ("ingested", 2)
    assert {f.rule for f in report.findings} == {"unset-stamps", "clock-from-drive"}
    rows = place.rows("told").to_pylist()
    assert [row["timestamp_ns"] - START_NS for row in rows] == [0, 33_311_111]
    with (REAL / "soccer_goal_12.mcap").open("rb") as file:
        packed = [message.data for _, _, message in make_reader(file, validate_crcs=True).iter_messages()]
    first = zstandard.ZstdDecompressor().decompress(packed[0])
    pixels = np.frombuffer(first[-640 * 480 * 3 :], np.uint8).reshape(480, 640, 3)
    shown = simplejpeg.decode_jpeg(place.jpeg(rows[0]))
    assert np.abs(shown.astype(int) - pixels).mean() < 4


def test_the_real_photograph_has_its_time_and_place(place: Place) -> None:
    if not REAL.is_dir():
        pytest.skip("no real recordings lie beside the project (../shared/data)")
    place.upload({"CAM_FRONT/DSC00001.JPG": (REAL / "DSC00001.JPG").read_bytes()})
    report = place.ingest()
    assert (report.outcome, report.frames_4k, report.frames_720p) == ("ingested", 1, 1)
    assert {f.rule for f in report.findings} == {"clock-from-exif"}
    row = place.rows().to_pylist()[0]
    assert row["channel"] == "CAM_FRONT"
    assert row["timestamp_ns"] == 1_528_489_451 * 10**9
    assert (row["latitude"], row["longitude"]) == pytest.approx((45.5169, -122.5728), abs=1e-3)
    small = next(row for row in place.rows().to_pylist() if row["output"] == "720p")
    stored = np.asarray(Image.open(io.BytesIO(place.jpeg(small))).convert("L"), float)
    with Image.open(REAL / "DSC00001.JPG") as image:
        wanted = np.asarray(image.convert("L").resize((1280, 720), Image.Resampling.LANCZOS), float)
    assert np.abs(stored - wanted).mean() < 4


def test_frame_numbers_of_the_made_pictures() -> None:
    assert read_frame_number(made.jpeg(7, 3)) == (3, 7)


def far_drive(clip_bytes: Callable[..., bytes]) -> dict[str, bytes]:
    sidecar = json.dumps({"fps": 10, "start_ns": START_NS}).encode()
    return {
        "CAM.mp4": clip_bytes(),
        "log_0.mcap": made.mcap([("/far", COMPRESSED, "cdr", made.jpegs(12))], start=START_NS),
        "RAW.h264": b"".join(made.video(12)),
        "RAW.json": sidecar,
        "d.bag": made.bag1(
            "/bag", [made.ros1_compressed(t, made.jpeg(n)) for n, t in enumerate(made.times(12))]
        ),
    }


def test_recordings_larger_than_scratch_are_read_where_they_lie(
    tmp_path: Path, clip_bytes: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lake, byte for byte, as when they are brought here."""
    near, far = new_place(tmp_path / "near"), new_place(tmp_path / "far")
    for place in (near, far):
        place.upload(far_drive(clip_bytes), start_ns=START_NS)
    assert near.ingest().outcome == "ingested"
    monkeypatch.setattr(cutting, "_room", lambda folder: 100)
    brought: list[str] = []
    real = landing.fetch_file

    def fetch_file(store: Store, vehicle: str, drive: str, file: LandedFile, to: Path) -> None:
        brought.append(file.path)
        real(store, vehicle, drive, file, to)

    monkeypatch.setattr(landing, "fetch_file", fetch_file)
    assert far.ingest().outcome == "ingested"
    assert brought == ["RAW.json"]
    assert far.objects() == near.objects()


def test_a_recording_that_stays_in_the_store_is_checked_all_the_same(
    place: Place, clip_bytes: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "_room", lambda folder: 100)
    place.upload({"CAM.mp4": clip_bytes()}, start_ns=START_NS)
    other = bytearray(clip_bytes())
    other[-1] ^= 1
    put(place.landing, "landing/car/d1/CAM.mp4", bytes(other))
    assert [finding.rule for finding in place.ingest().findings] == ["checksum"]


def test_a_recording_in_s3_goes_to_raw_without_touching_the_disk(
    make_store: Callable[..., Store],
    tmp_path: Path,
    clip_bytes: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutting, "_room", lambda folder: 100)
    place = Place(tmp_path, make_store("landing"), make_store("lake"))
    place.upload({"CAM.mp4": clip_bytes(), "empty.log": b""}, start_ns=START_NS)
    assert place.ingest().outcome == "ingested"
    raw = {key: data for key, data in place.objects().items() if key.startswith("raw/")}
    assert clip_bytes() in raw.values() and len(raw) == 3


def test_pieces_that_go_wrong_leave_no_object(make_store: Callable[..., Store]) -> None:
    store = make_store("lake")

    def pieces(good: bool) -> Iterator[bytes]:
        yield from [b"x" * (3 << 20)] * 4
        if not good:
            raise Corrupt("a file", "it changed on the way")

    with pytest.raises(Corrupt):
        put_pieces(store, "raw/a", pieces(good=False), 12 << 20)
    assert not exists(store, "raw/a")
    put_pieces(store, "raw/a", pieces(good=True), 12 << 20)
    with pytest.raises(StoreDown, match="of 7 bytes"):
        put_pieces(store, "raw/b", pieces(good=True), 7)
