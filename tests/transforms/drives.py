"""Good drives of each format, small, and what can go wrong with them; tests/transforms/proofs.py puts them together."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg

from lake import landing, stores
from lake.canonical import canonical_json
from outlap.synthetic import START_NS, make_recording
from tests.transforms import made
from tests.transforms.conftest import H264, Place
from transforms.times import SECOND

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO, FIX = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/NavSatFix"
STEP, COUNT = made.STEP_NS, 12
TEXT = b"this is a text\n" * 20
IDR = b"\0\0\1\x65"
Files = Mapping[str, bytes]
Pictures = Sequence[tuple[int, bytes]]


@functools.cache
def clip(**fields: Any) -> bytes:
    start = {"start_ns": fields.pop("start_ns")} if "start_ns" in fields else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        make_recording(path, dataclasses.replace(H264, **{"frames": COUNT, "gop": 4, **fields}), **start)
        return path.read_bytes()


@functools.cache
def units(**fields: Any) -> tuple[bytes, ...]:
    return tuple(made.video(COUNT, gop=4, **fields))


def raw(*more: bytes, **said: Any) -> Files:
    """Raw video (of all frames where none are given) with a sidecar."""
    said = said or {"fps": 10, "start_ns": START_NS}
    return {"cam.h264": b"".join(more or units()), "cam.json": json.dumps(said).encode()}


@functools.cache
def jpeg(number: int = 0) -> bytes:
    return made.jpeg(number)


@functools.cache
def plain(value: int = 0, width: int = made.WIDTH) -> bytes:
    return simplejpeg.encode_jpeg(np.full((width * 9 // 16, width, 3), value, np.uint8))


def shots(
    offset: Callable[[int], int] = lambda number: number * STEP,
    picture: Callable[[int], bytes] = jpeg,
    count: int = COUNT,
) -> Pictures:
    """(ns after START_NS, JPEG) of so many frames."""
    return [(offset(number), picture(number)) for number in range(count)]


def log(kind: str, pictures: Pictures, topic: str = "/cam", name: str = "x", late_ns: int = 1000) -> Files:
    """A log of pictures: written STEP apart from the first one's time on, wherever their stamps are."""
    if kind == "bag":
        payloads = [made.ros1_compressed(START_NS + at, data) for at, data in pictures]
        return {f"{name}.bag": made.bag1(topic, payloads)}
    payloads = [made.cdr_compressed(START_NS + at, data) for at, data in pictures]
    return other_log(kind, [(topic, COMPRESSED, "cdr", payloads)], name, late_ns)


def other_log(kind: str, topics: Sequence[made.Topic], name: str = "x", late_ns: int = 1000) -> Files:
    if kind == "mcap":
        return {f"{name}.mcap": made.mcap(topics, late_ns=late_ns, chunk=20_000)}
    with tempfile.TemporaryDirectory() as folder:
        return {f"{name}.db3": made.db3(Path(folder) / "x.db3", topics)}


def folder(pictures: Pictures, name: str = "cam") -> Files:
    return {f"{name}/{START_NS + at}.jpg": data for at, data in pictures}


def csv(*rows: tuple[int, float, float]) -> bytes:
    lines = [f"{START_NS + at},{latitude},{longitude}" for at, latitude, longitude in rows]
    return "\n".join(["timestamp_ns,latitude,longitude", *lines]).encode()


def good(column: str) -> Files:
    match column:
        case "mp4":
            return {"cam.mp4": clip()}
        case "raw":
            return raw()
        case "pictures":
            return folder(shots())
        case "tracks, sidecars":
            return {
                "GNSS.csv": csv((0, 48.0, 11.0), (SECOND, 48.0, 11.0)),
                "x.mcap": log("mcap", shots())["x.mcap"],
            }
    return log(column, shots())


def real(name: str, under: str = "") -> Files:
    return {under + name: (REAL / name).read_bytes()}


def of_1980() -> Files:
    """Argoverse's published clock."""
    return {f"a/{315_966_253 * 10**9 + n * STEP}.jpg": jpeg(n) for n in range(4)}


def text(column: str) -> Files:
    """Text under the name of a format."""
    if column == "pictures":
        return folder(shots(picture=lambda number: TEXT))
    return first(column, lambda data: TEXT)


def first(column: str, change: Callable[[bytes], bytes]) -> Files:
    """A good drive whose first file is changed."""
    drive = dict(good(column))
    name = next(iter(drive))
    return {**drive, name: change(drive[name])}


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def number_after(name: bytes, skip: int, value: int) -> Callable[[bytes], bytes]:
    """The big-endian number that stands so many bytes after a box's name is another one."""

    def change(data: bytes) -> bytes:
        at = data.index(name) + len(name) + skip
        return data[:at] + struct.pack(">I", value) + data[at + 4 :]

    return change


def zeros(begin: int, end: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:begin] + bytes(end - begin) + data[end:]


def spoiled(data: bytes, begin: float, end: float) -> bytes:
    one, two = int(len(data) * begin), int(len(data) * end)
    return data[:one] + bytes(byte ^ 0x5A for byte in data[one:two]) + data[two:]


def sound() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def encoded(pictures: Callable[[int], np.ndarray], kind: str) -> bytes:
    """Video of these planes of luma: `mp4`, or raw `h264`."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = made.WIDTH, made.HEIGHT, "yuv420p"
        stream.options = {"qp": "20", "x264-params": "threads=1:bframes=0:keyint=1"}
        for number in range(COUNT):
            planes = np.vstack([pictures(number), np.full((made.HEIGHT // 2, made.WIDTH), 128, np.uint8)])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return out.getvalue()


def hidden(data: bytes, seconds: float) -> bytes:
    """So many seconds lie before the zero of the edit list."""
    out, ticks = io.BytesIO(), round(seconds * 90_000)
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                packet.dts, packet.pts, packet.stream = packet.dts - ticks, packet.pts - ticks, stream
                target.mux(packet)
    return out.getvalue()


def without_first(data: bytes, count: int) -> bytes:
    """An MP4 without its first frames."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[count:]:
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def all_spoiled(data: bytes) -> bytes:
    """The coded bytes of every frame spoiled, the boxes left whole."""
    start = data.index(b"mdat") + 44
    spoiled = bytearray(data)
    for at in range(start, len(data), 3):
        spoiled[at] ^= 0xA5
    return bytes(spoiled)


def of_video(kind: str, payloads: Sequence[bytes]) -> Files:
    at = made.times(len(payloads))
    if kind == "mcap":
        videos = [made.proto_video(t, unit) for t, unit in zip(at, payloads, strict=True)]
        return other_log("mcap", [("/cam", "foxglove.CompressedVideo", "protobuf", videos)])
    videos = [made.cdr_video(t, unit) for t, unit in zip(at, payloads, strict=True)]
    return other_log(kind, [("/cam", "foxglove_msgs/msg/CompressedVideo", "cdr", videos)])


def naked(unit: bytes) -> bytes:
    """A key frame without its parameter sets."""
    return unit[unit.rindex(IDR) - 1 :]


def parameter_sets(unit: bytes) -> bytes:
    """What comes before the slice of a key frame."""
    return unit[: unit.rindex(IDR) - 1]


def miscounted() -> Files:
    data = bytearray(log("mcap", shots())["x.mcap"])
    # the record of statistics: op 0x0b, its length, then the count of messages; the summary's CRC is left out (0)
    at = data.rindex(b"\x0b" + struct.pack("<Q", 46 + 10))
    struct.pack_into("<Q", data, at + 9, COUNT + 7)
    struct.pack_into("<I", data, len(data) - 12, 0)
    return {"x.mcap": bytes(data)}


def with_info(kind: str, width: int, focal: float, camera: str = "/a") -> Files:
    pictures = made.jpegs(3)
    info = made.cdr_info(START_NS, width, width * 9 // 16, focal)
    topics: list[made.Topic] = [
        ("/a/image", COMPRESSED, "cdr", pictures),
        (f"{camera}/camera_info", INFO, "cdr", [info]),
    ]
    if camera != "/a":
        topics.append((f"{camera}/image", COMPRESSED, "cdr", pictures))
    return other_log(kind, topics)


def fixes(latitude: Callable[[int], float]) -> made.Topic:
    return (
        "/fix",
        FIX,
        "cdr",
        [made.cdr_fix(at, latitude(n), 11.0) for n, at in enumerate(made.times(COUNT))],
    )


def with_fixes(kind: str, latitude: Callable[[int], float]) -> Files:
    return other_log(kind, [("/cam", COMPRESSED, "cdr", made.jpegs(COUNT)), fixes(latitude)])


def delete_first(place: Place) -> None:
    key = next(
        o.key for o in stores.list_objects(place.landing, "landing/car/d1/") if landing.COMPLETE not in o.key
    )
    stores.delete(place.landing, key)


def change_first(place: Place) -> None:
    key = next(
        o.key for o in stores.list_objects(place.landing, "landing/car/d1/") if landing.COMPLETE not in o.key
    )
    stores.put(place.landing, key, stores.get(place.landing, key) + b"x")


def rename_channel(place: Place) -> None:
    """A name of a channel that no uploader of ours would write."""
    key = f"landing/car/d1/{landing.COMPLETE}"
    value = json.loads(stores.get(place.landing, key))
    value["files"][0]["channel"] = None
    old = value["files"][0]["path"]
    value["files"][0]["path"] = new = f"my camera{Path(old).suffix}"
    stores.put(place.landing, f"landing/car/d1/{new}", stores.get(place.landing, f"landing/car/d1/{old}"))
    stores.put(place.landing, key, canonical_json(value))
