"""Payloads: pictures, positions, signals and calibrations in the messages of logs, whichever way they are serialised.

ROS 2 messages are CDR (OMG DDS-XTypes 7.4), ROS 1 has its own packing (no alignment), Foxglove's schemas come as protobuf, as
JSON, and as ROS messages. Only the few types that matter here are read, field by field and within bounds.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transforms.recordings.log import Topic
from transforms.signals import IMU
from transforms.times import SECOND


class Malformed(ValueError):
    """A payload is not what its type says."""


@dataclass(frozen=True)
class Shot:
    """One picture. encoding: of raw pixels as sensor_msgs/Image has it, else None; format: as the message says."""

    stamp_ns: int
    frame_id: str
    data: bytes | memoryview
    format: str
    encoding: str | None = None
    width: int = 0
    height: int = 0
    step: int = 0
    big_endian: bool = False


@dataclass(frozen=True)
class Fix:
    """One position, degrees."""

    stamp_ns: int
    latitude: float
    longitude: float
    valid: bool


@dataclass(frozen=True)
class Lens:
    """One calibration. focal: K[0]."""

    frame_id: str
    width: int
    height: int
    focal: float


@dataclass(frozen=True)
class Reading:
    """Values of signals at one time. stamp_ns: None where the message has none; values: by name below the topic, "" is the topic."""

    stamp_ns: int | None
    values: Mapping[str, float | str]


Found = Shot | Fix | Lens | Reading


@dataclass
class _Cursor:
    """Fields of a ROS message, one after the other. align: the most that a field is aligned to, 1 in ROS 1."""

    data: memoryview
    at: int
    start: int
    order: str
    align: int

    def number(self, kind: str) -> Any:
        size = struct.calcsize(kind)
        step = min(size, self.align)
        self.at += -(self.at - self.start) % step
        if self.at + size > len(self.data):
            raise Malformed(f"it ends at byte {len(self.data)}, inside a field at byte {self.at}")
        (value,) = struct.unpack_from(self.order + kind, self.data, self.at)
        self.at += size
        return value

    def blob(self) -> memoryview:
        size = self.number("I")
        if self.at + size > len(self.data):
            raise Malformed(f"a field of {size} bytes at byte {self.at} is longer than its message")
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def text(self) -> str:
        return bytes(self.blob()).rstrip(b"\0").decode("utf-8", "replace")

    def stamp(self) -> int:
        return int(self.number("i" if self.align > 1 else "I")) * SECOND + int(self.number("I"))

    def header(self) -> tuple[int, str]:
        if self.align == 1:
            self.number("I")  # seq, which ROS 2 has not
        return self.stamp(), self.text()

    def doubles(self, count: int | None = None) -> list[float]:
        size = self.number("I") if count is None else count
        if size * 8 > len(self.data):
            raise Malformed(f"a list of {size} numbers is longer than its message")
        self.at += -(self.at - self.start) % min(8, self.align) if size else 0
        if self.at + 8 * size > len(self.data):
            raise Malformed(f"it ends at byte {len(self.data)}, inside {size} numbers at byte {self.at}")
        found = struct.unpack_from(f"{self.order}{size}d", self.data, self.at)
        self.at += 8 * size
        return list(found)


def _cursor(topic: Topic, data: memoryview) -> _Cursor:
    if topic.encoding == "ros1":
        return _Cursor(data, 0, 0, "<", 1)
    if len(data) < 4 or data[0] != 0 or data[1] not in (0, 1, 6, 7):
        raise Malformed(f"it begins with {bytes(data[:4]).hex()}, not as CDR does")
    # 0, 1: plain CDR, big and little endian; 6, 7: XCDR2, where nothing is aligned to more than 4
    return _Cursor(data, 4, 4, "<" if data[1] & 1 else ">", 8 if data[1] < 2 else 4)


def _ros_compressed(c: _Cursor) -> Shot:
    stamp, frame = c.header()
    kind = c.text()
    return Shot(stamp, frame, c.blob(), kind)


def _ros_image(c: _Cursor) -> Shot:
    stamp, frame = c.header()
    height, width, encoding = c.number("I"), c.number("I"), c.text()
    big, step = bool(c.number("B")), c.number("I")
    return Shot(stamp, frame, c.blob(), "", encoding, width, height, step, big)


def _ros_fix(c: _Cursor) -> Fix:
    stamp, _ = c.header()
    status, _ = c.number("b"), c.number("H")
    return Fix(stamp, c.number("d"), c.number("d"), status >= 0)


def _ros_info(c: _Cursor) -> Lens:
    _, frame = c.header()
    height, width, _ = c.number("I"), c.number("I"), c.text()
    c.doubles()
    return Lens(frame, width, height, c.doubles(9)[0])


def _fox_ros_data(c: _Cursor) -> Shot:
    """CompressedImage and CompressedVideo of foxglove_msgs have the same fields."""
    stamp, frame, data = c.stamp(), c.text(), c.blob()
    return Shot(stamp, frame, data, c.text())


def _fox_ros_raw(c: _Cursor) -> Shot:
    stamp, frame = c.stamp(), c.text()
    width, height, encoding, step = c.number("I"), c.number("I"), c.text(), c.number("I")
    return Shot(stamp, frame, c.blob(), "", encoding, width, height, step)


def _fox_ros_fix(c: _Cursor) -> Fix:
    stamp, _ = c.stamp(), c.text()
    return Fix(stamp, c.number("d"), c.number("d"), True)


def _ros_imu(c: _Cursor) -> Reading:
    """Orientation, rotation and acceleration, each with the nine numbers of its covariance; -1 in the first: it is not measured."""
    stamp, _ = c.header()
    c.doubles(4 + 9)
    rotation, turns = c.doubles(3), c.doubles(9)
    acceleration, pulls = c.doubles(3), c.doubles(9)
    told = ([*acceleration] if pulls[0] != -1 else []), ([*rotation] if turns[0] != -1 else [])
    values = {**dict(zip(IMU[:3], told[0], strict=False)), **dict(zip(IMU[3:], told[1], strict=False))}
    return Reading(stamp, values)


def _ros_measure(c: _Cursor) -> Reading:
    """Temperature, RelativeHumidity, Illuminance: a header, the value, its variance."""
    stamp, _ = c.header()
    return Reading(stamp, {"": float(c.number("d"))})


def _ros_plain(kind: str) -> Callable[[_Cursor], Reading]:
    return lambda c: Reading(None, {"": float(c.number(kind))})


def _ros_text(c: _Cursor) -> Reading:
    return Reading(None, {"": c.text()[:LONGEST_TEXT]})


LONGEST_TEXT = 200
PLAIN = {
    **{"Bool": "?", "Float32": "f", "Float64": "d", "Int8": "b", "UInt8": "B", "Int16": "h", "UInt16": "H"},
    **{"Int32": "i", "UInt32": "I", "Int64": "q", "UInt64": "Q"},
}
ROS: dict[str, Callable[[_Cursor], Found]] = {
    "sensor_msgs/CompressedImage": _ros_compressed,
    "sensor_msgs/Image": _ros_image,
    "sensor_msgs/NavSatFix": _ros_fix,
    "sensor_msgs/CameraInfo": _ros_info,
    "foxglove_msgs/CompressedImage": _fox_ros_data,
    "foxglove_msgs/CompressedVideo": _fox_ros_data,
    "foxglove_msgs/RawImage": _fox_ros_raw,
    "foxglove_msgs/LocationFix": _fox_ros_fix,
    "sensor_msgs/Imu": _ros_imu,
    "sensor_msgs/Temperature": _ros_measure,
    "sensor_msgs/RelativeHumidity": _ros_measure,
    "sensor_msgs/Illuminance": _ros_measure,
    "std_msgs/String": _ros_text,
    **{f"std_msgs/{name}": _ros_plain(kind) for name, kind in PLAIN.items()},
}


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise Malformed("it ends inside a number")
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
    raise Malformed("a number has more than ten bytes")


def _proto(data: memoryview) -> dict[int, list[Any]]:
    """Fields by number: ints, 4 or 8 bytes of fixed ones, views of the others (protobuf.dev/programming-guides/encoding)."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            found.setdefault(tag >> 3, []).append(value)
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise Malformed(f"a field has wire type {wire}")
        if at + size > len(data):
            raise Malformed(f"field {tag >> 3} of {size} bytes is longer than its message")
        found.setdefault(tag >> 3, []).append(data[at : at + size])
        at += size
    return found


def _bytes(fields: dict[int, list[Any]], number: int) -> memoryview:
    value = fields.get(number, [memoryview(b"")])[-1]
    if not isinstance(value, memoryview):
        raise Malformed(f"field {number} is a number")
    return value


def _string(fields: dict[int, list[Any]], number: int) -> str:
    return bytes(_bytes(fields, number)).decode("utf-8", "replace")


def _fixed(fields: dict[int, list[Any]], number: int, kind: str) -> Any:
    data = _bytes(fields, number)
    if not len(data):
        return 0
    if len(data) != struct.calcsize(kind):
        raise Malformed(f"field {number} has {len(data)} bytes")
    return struct.unpack("<" + kind, data)[0]


def _proto_stamp(fields: dict[int, list[Any]], number: int) -> int:
    parts = _proto(_bytes(fields, number))
    seconds, nanoseconds = (parts.get(n, [0])[-1] for n in (1, 2))
    if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
        raise Malformed("its timestamp is none")
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * SECOND + nanoseconds


def _protobuf(kind: str, data: memoryview) -> Shot | Fix | Lens:
    f = _proto(data)
    if kind == "CompressedImage":
        return Shot(_proto_stamp(f, 1), _string(f, 4), _bytes(f, 2), _string(f, 3))
    if kind == "CompressedVideo":
        return Shot(_proto_stamp(f, 1), _string(f, 2), _bytes(f, 3), _string(f, 4))
    if kind == "RawImage":
        width, height, step = (_fixed(f, n, "I") for n in (2, 3, 5))
        return Shot(_proto_stamp(f, 1), _string(f, 7), _bytes(f, 6), "", _string(f, 4), width, height, step)
    if kind == "LocationFix":
        return Fix(_proto_stamp(f, 6), _fixed(f, 1, "d"), _fixed(f, 2, "d"), True)
    matrix = _bytes(f, 6)
    focal = struct.unpack_from("<d", matrix)[0] if len(matrix) >= 8 else 0.0
    return Lens(_string(f, 9), _fixed(f, 2, "I"), _fixed(f, 3, "I"), focal)


def _json(kind: str, data: memoryview) -> Shot | Fix | Lens:
    try:
        value = json.loads(bytes(data))
        frame = str(value.get("frame_id", ""))
        if kind == "CameraCalibration":
            matrix = value.get("K") or [0.0]
            return Lens(frame, int(value["width"]), int(value["height"]), float(matrix[0]))
        told = value["timestamp"]
        stamp = int(told["sec"]) * SECOND + int(told.get("nsec", told.get("nanosec", 0)))
        if kind == "LocationFix":
            return Fix(stamp, float(value["latitude"]), float(value["longitude"]), True)
        picture = base64.b64decode(value["data"], validate=True)
        if kind == "RawImage":
            width, height, step = (int(value[name]) for name in ("width", "height", "step"))
            return Shot(stamp, frame, picture, "", str(value["encoding"]), width, height, step)
        return Shot(stamp, frame, picture, str(value.get("format", "")))
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RecursionError,
        binascii.Error,
    ) as error:
        raise Malformed(f"it is no JSON of a {kind}: {type(error).__name__} {str(error)[:80]}") from error


FOXGLOVE = frozenset({"CompressedImage", "CompressedVideo", "RawImage", "LocationFix", "CameraCalibration"})


def reader_of(topic: Topic) -> Callable[[memoryview], Found] | None:
    """What reads the payloads of a topic, None where they are of no use here. It raises Malformed."""
    schema = topic.schema.replace("/msg/", "/")
    if topic.encoding in ("cdr", "ros1"):
        read = ROS.get(schema)
        return None if read is None else lambda data: _checked(read(_cursor(topic, data)))
    house, _, kind = schema.rpartition(".")
    if house != "foxglove" or kind not in FOXGLOVE:
        return None
    if topic.encoding == "protobuf":
        return lambda data: _checked(_protobuf(kind, data))
    if topic.encoding == "json":
        return lambda data: _checked(_json(kind, data))
    return None


def _checked(found: Found) -> Found:
    stamp = None if isinstance(found, Lens) else found.stamp_ns
    if stamp is not None and abs(stamp) >= 1 << 62:
        raise Malformed(f"its stamp is {stamp} ns")
    return found
