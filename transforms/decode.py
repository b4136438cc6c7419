"""Runs to frames, frames to JPEGs: each picture is decoded once and stays in planes of YUV all the way.

A JPEG (JFIF) holds full-range BT.601; cameras give limited-range BT.709, often with more bits or chroma. swscale converts
once at full size, the smaller output is scaled from that, and simplejpeg compresses the planes as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from transforms.errors import Unreadable
from transforms.plan import Run
from transforms.recipe import LINES, Output
from transforms.recordings import Channel, Orientation
from transforms.recordings.mp4 import cause

Plane = npt.NDArray[np.uint8]

# AVColorSpace (ITU-T H.273 matrix coefficients) to what swscale knows
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
RGB = 0
SMALLEST = 16  # a picture with fewer lines or columns is no picture of a road


@dataclass(frozen=True)
class Picture:
    """One JPEG; width and height in pixels, upright."""

    output: str
    width: int
    height: int
    jpeg: bytes


def target_sizes(width: int, height: int, outputs: Sequence[Output]) -> list[tuple[Output, int, int]]:
    """(output, width, height) of what is made of a picture: even sizes, never larger than it, in its proportions.

    The outputs limit the shorter side. 4k is left out where it would be no larger than 720p.
    """
    sizes = []
    for output in outputs:
        if output.name == "4k" and min(width, height) <= LINES["720p"]:
            continue
        shorter = min(width, height, output.lines)
        scale = min(width, height)
        # to the nearest even number, in integers; not above the source where that is odd
        wide, high = ((2 * side * shorter + 2 * scale) // (4 * scale) * 2 for side in (width, height))
        sizes.append((output, min(wide, width // 2 * 2), min(high, height // 2 * 2)))
    return sizes


def decode_run(
    channel: Channel, decoder: av.VideoCodecContext, run: Run
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(place in the index, frame) of the run's wanted frames, ascending in time.

    decoder: of this channel; it is drained afterwards and can take another run. Raises Unreadable for a frame that does
    not decode, or only in part.
    """
    pts = channel.index.pts
    waiting = {int(pts[place]): place for place in run.wanted}
    try:
        decoder.flush_buffers()
        for packet in chain(channel.packets(range(run.start, run.stop)), [None]):
            for frame in decoder.decode(packet):
                place = waiting.pop(frame.pts, None) if frame.pts is not None else None
                if place is None:
                    continue
                if frame.is_corrupt:
                    raise Unreadable("a recording", f"frame {place} is damaged")
                yield place, frame
    except (av.FFmpegError, ValueError) as error:
        raise Unreadable(
            "a recording", f"frames {run.start} to {run.stop - 1} do not decode: {cause(error)}"
        ) from error
    if waiting:
        missing = min(waiting.values())
        raise Unreadable("a recording", f"frame {missing} gives no picture ({len(waiting)} of its run)")


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    if frame.colorspace == RGB:
        return None
    # unspecified: players take BT.709 for high definition and BT.601 below it
    guess = Colorspace.ITU709 if min(frame.width, frame.height) >= 720 else Colorspace.ITU601
    return MATRICES.get(frame.colorspace, guess)


def _full_range(frame: av.VideoFrame) -> ColorRange:
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return ColorRange.JPEG if full else ColorRange.MPEG


def _planes(frame: av.VideoFrame, width: int, height: int, orientation: Orientation) -> list[Plane]:
    """Y, U and V, cropped to an even size and turned upright; views into the frame where nothing is turned."""
    planes = []
    for number, plane in enumerate(frame.planes):
        half = 2 if number else 1
        pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            : height // half, : width // half
        ]
        if orientation.mirrored:
            pixels = pixels[:, ::-1]
        if orientation.quarters:
            pixels = np.rot90(pixels, orientation.quarters)
        planes.append(np.ascontiguousarray(pixels))
    return planes


def to_pictures(frame: av.VideoFrame, orientation: Orientation, outputs: Sequence[Output]) -> list[Picture]:
    """The JPEGs of a decoded frame. Raises Unreadable for a picture that is too small to be one."""
    if min(frame.width, frame.height) < SMALLEST:
        raise Unreadable("a recording", f"its pictures are {frame.width}x{frame.height}")
    sizes = target_sizes(frame.width, frame.height, outputs)
    full = frame.reformat(
        format="yuvj420p",
        src_colorspace=_matrix(frame),
        dst_colorspace=Colorspace.ITU601,
        src_color_range=_full_range(frame),
        dst_color_range=ColorRange.JPEG,
    )
    pictures = []
    for output, width, height in sizes:
        whole = (width, height) == (frame.width // 2 * 2, frame.height // 2 * 2)
        scaled = (
            full if whole else full.reformat(width=width, height=height, interpolation=Interpolation.BICUBIC)
        )
        luma, blue, red = _planes(scaled, width, height, orientation)
        jpeg = simplejpeg.encode_jpeg_yuv_planes(luma, blue, red, quality=output.quality)
        pictures.append(Picture(output.name, luma.shape[1], luma.shape[0], jpeg))
    return pictures
