"""Packets for decoders that work in threads of their own."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av


def new_packet(data: bytes, pts: int, time_base: Fraction, key: bool) -> av.Packet[Any]:
    """A packet that holds a copy of `data`, decoded when it is shown.

    av.Packet(bytes) would lend FFmpeg our bytes: a decoder's thread that is done with them waits for the interpreter to take
    them back, and an interpreter that ends that decoder waits for the thread, for ever.
    """
    packet: av.Packet[Any] = av.Packet(len(data))
    packet.update(data)
    packet.pts = packet.dts = pts
    packet.time_base = time_base
    packet.is_keyframe = key
    return packet
