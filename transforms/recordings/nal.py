"""NAL units of H.264 (ITU-T H.264 7.3.1) and H.265 (ITU-T H.265 7.3.1.2) in Annex B byte streams: what they are, without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

START = b"\x00\x00\x01"
SLICES = {"h264": frozenset({1, 2, 5}), "hevc": frozenset({*range(10), *range(16, 22)})}
KEYS = {"h264": frozenset({5}), "hevc": frozenset(range(16, 22))}
# SPS and PPS; VPS, SPS and PPS
PARAMETERS = {"h264": frozenset({7, 8}), "hevc": frozenset({32, 33, 34})}


def kind_of(codec: str, first: int) -> int:
    """nal_unit_type from the first byte of a unit."""
    return first & 31 if codec == "h264" else first >> 1 & 63


def units(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """(begin, end) of each unit without its start code; zeros that trail belong to no unit."""
    data = bytes(data)
    at = data.find(START)
    while at >= 0:
        begin = at + 3
        at = data.find(START, begin)
        end = len(data) if at < 0 else at
        while end > begin and data[end - 1] == 0:
            end -= 1
        if end > begin:
            yield begin, end


@dataclass(frozen=True)
class Unit:
    """An access unit: one coded picture. key: decoding can start here; parameters: kinds of parameter sets in it, coded."""

    key: bool
    slices: int
    parameters: dict[int, bytes]
    b_slices: bool


def _exp_golomb(data: bytes, bit: int) -> tuple[int, int]:
    """ue(v) at a bit, and the bit after it. Raises ValueError."""
    zeros = 0
    while True:
        if bit >> 3 >= len(data) or zeros > 32:
            raise ValueError("a slice header ends early")
        if data[bit >> 3] >> (7 - (bit & 7)) & 1:
            break
        zeros, bit = zeros + 1, bit + 1
    value = 0
    for _ in range(zeros + 1):
        if bit >> 3 >= len(data):
            raise ValueError("a slice header ends early")
        value = value << 1 | data[bit >> 3] >> (7 - (bit & 7)) & 1
        bit += 1
    return value - 1, bit


def _is_b(codec: str, unit: bytes) -> bool:
    """Whether an H.264 slice is of type B; of H.265 the slice header needs the PPS, so it is left to the times."""
    if codec != "h264":
        return False
    try:
        _, bit = _exp_golomb(unit, 8)
        kind, _ = _exp_golomb(unit, bit)
    except ValueError:
        return False
    return kind % 5 == 1


def read_unit(codec: str, data: bytes | memoryview) -> Unit:
    """What an access unit in Annex B holds."""
    data = bytes(data)
    key, slices, b_slices = False, 0, False
    parameters: dict[int, bytes] = {}
    for begin, end in units(data):
        kind = kind_of(codec, data[begin])
        if kind in PARAMETERS[codec]:
            parameters[kind] = data[begin:end]
        elif kind in SLICES[codec]:
            slices += 1
            key = key or kind in KEYS[codec]
            b_slices = b_slices or _is_b(codec, data[begin : min(end, begin + 32)])
    return Unit(key, slices, parameters, b_slices)


def extradata(parameters: dict[int, bytes]) -> bytes:
    """Parameter sets as a decoder takes them before the first picture."""
    return b"".join(b"\0" + START + parameters[kind] for kind in sorted(parameters))
