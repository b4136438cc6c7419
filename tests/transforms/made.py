"""Recordings of every format, made small: each picture carries its number, as the synthetic drive's do."""

from __future__ import annotations

import base64
import bz2
import io
import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg
import zstandard
from mcap.writer import CompressionType, Writer
from PIL import Image

from outlap.synthetic import START_NS, _draw_code

WIDTH, HEIGHT = 640, 360
STEP_NS = 100_000_000
Payload = tuple[str, str, str, Callable[[int, bytes], bytes]]


def luma(number: int, camera: int = 0) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH), 90, np.uint8)
    picture[200:] = 60
    picture[220:260, 40 + number * 8 : 90 + number * 8] = 200
    _draw_code(picture, camera, number, 235, 16)
    return picture


def rgb(number: int, camera: int = 0) -> np.ndarray:
    return np.repeat(luma(number, camera)[:, :, None], 3, axis=2)


def jpeg(number: int, camera: int = 0) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb(number, camera)), quality=90)


def png(number: int, camera: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgb(number, camera)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def video(
    count: int, codec: str = "libx264", gop: int = 5, b_frames: int = 0, camera: int = 0
) -> list[bytes]:
    """Access units in Annex B, in the order of decoding."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 10), Fraction(10)
    context.gop_size = gop
    context.max_b_frames = b_frames
    common = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0"
    if codec == "libx264":
        context.options = {"x264-params": f"threads=1:{common}", "preset": "veryfast"}
    else:
        quiet = "log-level=none:pools=1:frame-threads=1"
        context.options = {"x265-params": f"{quiet}:repeat-headers=1:{common}", "preset": "ultrafast"}
    found = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(
            np.vstack([luma(number, camera), np.full((HEIGHT // 2, WIDTH), 128, np.uint8)]), format="yuv420p"
        )
        frame.pts = number
        found += [bytes(packet) for packet in context.encode(frame)]
    return found + [bytes(packet) for packet in context.encode(None)]


def _cdr_text(data: bytes, text: str) -> bytes:
    data += b"\0" * (-len(data) % 4)
    return data + struct.pack("<I", len(text) + 1) + text.encode() + b"\0"


def _cdr_blob(data: bytes, blob: bytes) -> bytes:
    data += b"\0" * (-len(data) % 4)
    return data + struct.pack("<I", len(blob)) + blob


def cdr_header(at_ns: int, frame: str = "cam") -> bytes:
    return _cdr_text(struct.pack("<iI", at_ns // 10**9, at_ns % 10**9), frame)


def cdr_compressed(at_ns: int, picture: bytes, kind: str = "jpeg") -> bytes:
    return b"\0\1\0\0" + _cdr_blob(_cdr_text(cdr_header(at_ns), kind), picture)


def cdr_image(at_ns: int, pixels: bytes, encoding: str = "rgb8", step: int = WIDTH * 3) -> bytes:
    head = cdr_header(at_ns)
    head += b"\0" * (-len(head) % 4) + struct.pack("<II", HEIGHT, WIDTH)
    head = _cdr_text(head, encoding) + b"\0"
    head += b"\0" * (-len(head) % 4) + struct.pack("<I", step)
    return b"\0\1\0\0" + _cdr_blob(head, pixels)


def cdr_video(at_ns: int, unit: bytes, kind: str = "h264") -> bytes:
    head = _cdr_blob(cdr_header(at_ns), unit)
    return b"\0\1\0\0" + _cdr_text(head, kind)


def cdr_fix(at_ns: int, latitude: float, longitude: float) -> bytes:
    head = cdr_header(at_ns) + struct.pack("<b", 0)
    head += b"\0" * (-len(head) % 2) + struct.pack("<H", 1)
    head += b"\0" * (-len(head) % 8)
    return b"\0\1\0\0" + head + struct.pack("<12d", latitude, longitude, 500.0, *[0.0] * 9) + b"\0"


def cdr_info(at_ns: int, width: int, height: int, focal: float) -> bytes:
    head = cdr_header(at_ns)
    head += b"\0" * (-len(head) % 4) + struct.pack("<II", height, width)
    head = _cdr_text(head, "plumb_bob")
    head += b"\0" * (-len(head) % 4) + struct.pack("<I", 5)
    head += b"\0" * (-len(head) % 8)
    return b"\0\1\0\0" + head + struct.pack("<26d", *[0.0] * 5, focal, *[0.0] * 20)


def ros1_compressed(at_ns: int, picture: bytes, kind: str = "jpeg") -> bytes:
    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    head = struct.pack("<III", 7, at_ns // 10**9, at_ns % 10**9)
    return head + text(b"cam") + text(kind.encode()) + text(picture)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def proto(**fields: Any) -> bytes:
    """n1=…, n2=…: ints as varints, bytes with their length, floats as fixed 64."""
    out = b""
    for name, value in fields.items():
        number = int(name[1:])
        if isinstance(value, float):
            out += _varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return out


def proto_stamp(at_ns: int) -> bytes:
    return proto(n1=at_ns // 10**9, n2=at_ns % 10**9)


def proto_compressed(at_ns: int, picture: bytes) -> bytes:
    return proto(n1=proto_stamp(at_ns), n2=picture, n3=b"jpeg", n4=b"cam")


def proto_video(at_ns: int, unit: bytes, kind: str = "h264") -> bytes:
    return proto(n1=proto_stamp(at_ns), n2=b"cam", n3=unit, n4=kind.encode())


def json_compressed(at_ns: int, picture: bytes) -> bytes:
    stamp = {"sec": at_ns // 10**9, "nsec": at_ns % 10**9}
    data = base64.b64encode(picture).decode()
    return json.dumps({"timestamp": stamp, "frame_id": "cam", "data": data, "format": "jpeg"}).encode()


# topic, schema, encoding of messages, payloads in order
Topic = tuple[str, str, str, Sequence[bytes]]


def mcap(
    topics: Iterable[Topic],
    *,
    compression: str = "zstd",
    chunk: int = 100_000,
    late_ns: int = 1000,
    start: int = START_NS,
) -> bytes:
    """Messages of all topics in turns, STEP_NS apart."""
    out = io.BytesIO()
    writer = Writer(
        out, chunk_size=chunk, compression=CompressionType[compression.upper()], enable_data_crcs=True
    )
    writer.start("ros2", "test")
    ids = []
    for topic, schema, encoding, payloads in topics:
        kind = {"cdr": "ros2msg", "protobuf": "protobuf", "json": "jsonschema", "ros1": "ros1msg"}[encoding]
        number = writer.register_schema(schema, kind, b"x")
        ids.append((writer.register_channel(topic, encoding, number), payloads))
    for number in range(max((len(payloads) for _, payloads in ids), default=0)):
        for channel, payloads in ids:
            if number < len(payloads):
                at = start + number * STEP_NS + late_ns
                writer.add_message(channel, at, payloads[number], at, number)
    writer.finish()
    return out.getvalue()


def bag1(topic: str, payloads: Sequence[bytes], compression: str = "none", per_chunk: int = 4) -> bytes:
    """A ROS 1 bag of one topic of CompressedImage."""

    def record(header: dict[str, bytes], data: bytes) -> bytes:
        fields = b"".join(
            struct.pack("<I", len(k) + 1 + len(v)) + k.encode() + b"=" + v for k, v in header.items()
        )
        return struct.pack("<I", len(fields)) + fields + struct.pack("<I", len(data)) + data

    def connection() -> bytes:
        inner = {
            "topic": topic.encode(),
            "type": b"sensor_msgs/CompressedImage",
            "md5sum": b"*",
            "message_definition": b"",
        }
        fields = b"".join(
            struct.pack("<I", len(k) + 1 + len(v)) + k.encode() + b"=" + v for k, v in inner.items()
        )
        return record({"op": b"\x07", "conn": struct.pack("<I", 0), "topic": topic.encode()}, fields)

    body = b""
    for begin in range(0, len(payloads), per_chunk):
        inside = connection() if begin == 0 else b""
        for number in range(begin, min(begin + per_chunk, len(payloads))):
            at = START_NS + number * STEP_NS
            stamp = struct.pack("<II", at // 10**9, at % 10**9)
            inside += record({"op": b"\x02", "conn": struct.pack("<I", 0), "time": stamp}, payloads[number])
        packed = {"none": lambda data: data, "bz2": bz2.compress, "lz4": _lz4}[compression](inside)
        body += record(
            {"op": b"\x05", "compression": compression.encode(), "size": struct.pack("<I", len(inside))},
            packed,
        )
    start = 13 + 4096
    header = {
        "op": b"\x03",
        "index_pos": struct.pack("<Q", start + len(body)),
        "conn_count": b"\1\0\0\0",
        "chunk_count": b"\1\0\0\0",
    }
    first = record(header, b"")
    padding = 4096 - len(first)
    return b"#ROSBAG V2.0\n" + record(header, b" " * padding) + body + connection()


def _lz4(data: bytes) -> bytes:
    import lz4.frame

    return bytes(lz4.frame.compress(data))


def db3(path: Path, topics: Iterable[Topic], start: int = 0) -> bytes:
    """A part of a ROS 2 bag of sqlite3; start: number of its first message."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(
        "create table topics(id integer primary key, name text not null, type text not null, serialization_format text not null)"
    )
    connection.execute(
        "create table messages(id integer primary key, topic_id integer not null, timestamp integer not null, data blob not null)"
    )
    for topic_id, (name, schema, encoding, payloads) in enumerate(topics, 1):
        connection.execute("insert into topics values (?, ?, ?, ?)", (topic_id, name, schema, encoding))
        for number, payload in enumerate(payloads, start):
            at = START_NS + number * STEP_NS
            connection.execute("insert into messages values (null, ?, ?, ?)", (topic_id, at, payload))
    connection.commit()
    connection.close()
    return path.read_bytes()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def times(count: int, start: int = START_NS) -> list[int]:
    return [start + number * STEP_NS for number in range(count)]


def jpegs(count: int, camera: int = 0) -> list[bytes]:
    return [cdr_compressed(at, jpeg(number, camera)) for number, at in enumerate(times(count))]
