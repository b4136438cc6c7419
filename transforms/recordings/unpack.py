"""Unpack: compressed pieces of recordings, never to more than they say, nor to more than we allow."""

from __future__ import annotations

import bz2

import lz4.frame  # type: ignore[import-untyped]
import zstandard

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class BadPacking(ValueError):
    """The piece does not unpack to what it says."""


def unpack(data: bytes | memoryview, how: str, size: int) -> bytes:
    """how: "", zstd, lz4 (frame format) or bz2; size: of the unpacked bytes. Raises BadPacking."""
    if how in ("", "none"):
        out = bytes(data)
    elif how == "zstd":
        out = _zstd(data, size)
    elif how == "lz4":
        try:
            out = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        except (RuntimeError, EOFError) as error:
            raise BadPacking(f"lz4: {error}") from error
    elif how == "bz2":
        try:
            out = bz2.BZ2Decompressor().decompress(bytes(data), max_length=size + 1)
        except (OSError, EOFError, ValueError) as error:
            raise BadPacking(f"bz2: {error}") from error
    else:
        raise BadPacking(f"it is packed with {how[:20]!r}, which nobody knows")
    if len(out) != size:
        more = " or more" if len(out) > size else ""
        raise BadPacking(f"it unpacks to {len(out)} bytes{more}, not to {size}")
    return out


def _zstd(data: bytes | memoryview, most: int) -> bytes:
    """At most `most` bytes: the size in the frame's header is not believed."""
    try:
        told = zstandard.frame_content_size(data)
        if told > most:
            raise BadPacking(f"zstd: it says that it has {told} bytes")
        if told >= 0:
            return zstandard.ZstdDecompressor().decompress(data)
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return bytes(reader.read(most + 1))
    except zstandard.ZstdError as error:
        raise BadPacking(f"zstd: {error}") from error


def unpack_payload(payload: memoryview, most: int) -> memoryview | bytes:
    """A message's payload; rosbag2 with `--compression-mode message` packs each one, and nothing else says so.

    A CDR payload begins with 00, never as a zstd frame does. Raises BadPacking.
    """
    return _zstd(payload, most) if payload[:4] == ZSTD_MAGIC else payload
