"""Frames to JPEGs: each picture stays in planes of YUV all the way, and is scaled once for each output.

A JPEG (JFIF) holds full-range BT.601; cameras give limited-range BT.709, often with more bits or chroma. FFmpeg's filter
`colorspace` does that matrix on planes with SIMD (a tenth of the time that swscale takes, and rounds where swscale cuts);
what it does not know goes through swscale. swscale scales with Lanczos, libjpeg-turbo compresses the planes as they are.
Measured: docs/cutting.md.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
import simplejpeg
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from transforms.errors import Unreadable, is_of_machine
from transforms.recipe import Output
from transforms.recordings import Orientation
from transforms.sizes import Target, target_sizes

Plane = npt.NDArray[np.uint8]

# AVColorSpace (ITU-T H.273 matrix coefficients): what the filter calls it, what swscale calls it
MATRICES = {
    1: ("bt709", Colorspace.ITU709),
    4: ("fcc", Colorspace.FCC),
    5: ("bt470bg", Colorspace.ITU601),
    6: ("smpte170m", Colorspace.ITU601),
    7: ("smpte240m", Colorspace.SMPTE240M),
    9: ("bt2020ncl", Colorspace.BT2020),
    10: ("bt2020ncl", Colorspace.BT2020),
}
BT601 = (5, 6)
BT709 = 1
RGB = 0
# what the filter reads, and the planes of eight bits that it then writes
FILTERED = {
    f"{kind}{chroma}p{depth}": f"yuv{chroma}p"
    for chroma in ("420", "422", "444")
    for kind, depth in (("yuv", ""), ("yuvj", ""), ("yuv", "10le"), ("yuv", "12le"))
}
# what GPUs give: the same samples, colour interleaved
INTERLEAVED = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
SMALLEST = 16  # a picture with fewer lines or columns is no picture of a road
MOST_SCALERS = 16
LANCZOS = Interpolation.LANCZOS

# Graphs and scalers are made once for each thread: making one costs as much as using it.
_own = threading.local()


@dataclass(frozen=True)
class Picture:
    """One JPEG; width and height in pixels, upright."""

    output: str
    width: int
    height: int
    jpeg: bytes


def _matrix(frame: av.VideoFrame) -> int:
    """AVColorSpace. Unspecified: players take BT.709 for high definition and BT.601 below it."""
    guess = BT709 if min(frame.width, frame.height) >= 720 else BT601[0]
    return int(frame.colorspace) if frame.colorspace in MATRICES else guess


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _graph(frame: av.VideoFrame, crop: tuple[int, int], matrix: str, full: bool) -> Graph:
    """From a frame's matrix and range to those of a JPEG, and then of that what `crop` says. Raises av.FFmpegError."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    # equal primaries and curves on both sides: the matrix and the range alone
    same = "iprimaries=bt709:primaries=bt709:itrc=bt709:trc=bt709:fast=1"
    steps = [
        graph.add(
            "colorspace",
            f"ispace={matrix}:space=bt470bg:irange={'pc' if full else 'tv'}:range=pc:{same}"
            f":format={FILTERED[frame.format.name]}",
        )
    ]
    if crop != (frame.width, frame.height):
        steps.append(graph.add("crop", f"{crop[0]}:{crop[1]}:0:0:exact=1"))
    for step in (*steps, graph.add("buffersink")):
        source.link_to(step)
        source = step
    graph.configure()
    return graph


def _with_even_sides(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame with its last column or line once more where a side is odd; planes of colour that are halved stay as they are."""
    wide, high = frame.width + frame.width % 2, frame.height + frame.height % 2
    if (wide, high) == (frame.width, frame.height):
        return frame
    even = av.VideoFrame(wide, high, frame.format.name)
    sample = np.dtype(np.uint16 if frame.format.name.endswith("le") else np.uint8)
    for old, new in zip(frame.planes, even.planes, strict=True):
        pixels = np.frombuffer(memoryview(old), sample).reshape(-1, old.line_size // sample.itemsize)
        missing = (0, new.height - old.height), (0, new.width - old.width)
        whole = np.zeros((new.height, new.line_size // sample.itemsize), sample)
        whole[:, : new.width] = np.pad(pixels[: old.height, : old.width], missing, "edge")
        new.update(whole.tobytes())
    even.colorspace, even.color_range = frame.colorspace, frame.color_range
    return even


def _filtered(frame: av.VideoFrame, matrix: str, full: bool) -> av.VideoFrame:
    size = (frame.width, frame.height)
    key = (frame.format.name, *size, matrix, full)
    frame = _with_even_sides(frame)  # the filter takes no others
    if getattr(_own, "graph_key", None) != key:
        _own.graph_key = None
        _own.graph, _own.graph_key = _graph(frame, size, matrix, full), key
    try:
        _own.graph.push(frame)
        found = _own.graph.pull()
    except av.FFmpegError:
        _own.graph_key = None  # a graph that failed gives nothing more
        raise
    assert isinstance(found, av.VideoFrame)
    return found


def _unpacked(frame: av.VideoFrame) -> av.VideoFrame:
    """The same samples in planes of their own."""
    space, span = frame.colorspace, frame.color_range
    planar = frame.reformat(format=INTERLEAVED[frame.format.name])
    planar.colorspace, planar.color_range = space, span
    return planar


def to_jfif(frame: av.VideoFrame) -> av.VideoFrame:
    """The picture as JPEG has it: planes of eight bits, full range, BT.601. Raises av.FFmpegError."""
    matrix, full = _matrix(frame), _is_full_range(frame)
    if frame.format.name in INTERLEAVED:
        frame = _unpacked(frame)
    name = frame.format.name
    if name in FILTERED and frame.colorspace != RGB:
        if full and matrix in BT601 and not name.endswith("le"):
            return frame
        return _filtered(frame, MATRICES[matrix][0], full)
    return frame.reformat(
        format="yuvj420p",
        src_colorspace=None if frame.colorspace == RGB else MATRICES[matrix][1],
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )


def scaled(frame: av.VideoFrame, width: int, height: int, chroma: str) -> av.VideoFrame:
    """A picture of to_jfif or in RGB, in another size or chroma; itself where nothing changes."""
    name = f"yuvj{chroma}p"
    if (frame.width, frame.height, frame.format.name.replace("yuv4", "yuvj4")) == (width, height, name):
        return frame
    scalers: dict[object, VideoReformatter] = _own.__dict__.setdefault("scalers", {})
    key = (frame.width, frame.height, frame.format.name, width, height, name)
    if key not in scalers:
        if len(scalers) >= MOST_SCALERS:
            scalers.clear()
        scalers[key] = VideoReformatter()
    return scalers[key].reformat(
        frame,
        width=width,
        height=height,
        format=name,
        interpolation=LANCZOS,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
    )


def _planes(frame: av.VideoFrame, target: Target, orientation: Orientation, chroma: str) -> list[Plane]:
    """Y, U and V, turned upright, the middle of target.width x target.height; views where nothing is turned."""
    across, down = (1, 1) if chroma == "444" else (2, 1) if chroma == "422" else (2, 2)
    # the beginning of a sample of colour, so that colour stays where it is
    left, top = (target.scaled_width - target.width) // 4 * 2, (target.scaled_height - target.height) // 4 * 2
    planes = []
    for number, plane in enumerate(frame.planes):
        x, y = (across, down) if number else (1, 1)
        pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        pixels = pixels[: plane.height, : plane.width]
        if orientation.mirrored:
            pixels = pixels[:, ::-1]
        if orientation.quarters:
            pixels = np.rot90(pixels, orientation.quarters)
        pixels = pixels[
            top // y : top // y + -(-target.height // y), left // x : left // x + -(-target.width // x)
        ]
        planes.append(np.ascontiguousarray(pixels))
    return planes


def _chroma_of(output: Output, orientation: Orientation) -> str:
    """4:2:2 halves colour across, so a picture that is yet to be turned has to keep all of it."""
    return "444" if output.chroma == "422" and orientation.quarters % 2 else output.chroma


def to_pictures(frame: av.VideoFrame, orientation: Orientation, outputs: Sequence[Output]) -> list[Picture]:
    """The JPEGs of a decoded frame. Raises Unreadable for a picture that is too small to be one, or that FFmpeg does not convert."""
    if min(frame.width, frame.height) < SMALLEST:
        raise Unreadable("a recording", f"its pictures are {frame.width}x{frame.height}")
    try:
        return jfif_pictures(to_jfif(frame), orientation, outputs)
    except (av.FFmpegError, ValueError) as error:
        if is_of_machine(error):
            raise
        what = f"{frame.format.name} of {frame.width}x{frame.height}"
        raise Unreadable("a recording", f"FFmpeg does not convert its pictures ({what}): {error}") from error


def jfif_pictures(
    full: av.VideoFrame,
    orientation: Orientation,
    outputs: Sequence[Output],
    whole: tuple[int, int] | None = None,
) -> list[Picture]:
    """The JPEGs of a picture of to_jfif, or in RGB. whole: its size before it was decoded smaller, not turned upright."""
    turned = orientation.quarters % 2 == 1
    width, height = whole or (full.width, full.height)
    if turned:
        width, height = height, width
    pictures = []
    for target in target_sizes(width, height, outputs):
        output = target.output
        size = (target.scaled_width, target.scaled_height)
        # an odd column or line is cut off, not scaled away
        if size == (width // 2 * 2, height // 2 * 2) and output.most_lines is not None:
            size = (width, height)
        chroma = _chroma_of(output, orientation)
        wide, high = reversed(size) if turned else size
        picture = scaled(full, wide, high, chroma)
        luma, blue, red = _planes(picture, target, orientation, chroma)
        if chroma != output.chroma:
            blue, red = (
                np.ascontiguousarray((plane[:, ::2].astype(np.uint16) + plane[:, 1::2] + 1) // 2).astype(
                    np.uint8
                )
                for plane in (blue, red)
            )
        jpeg = simplejpeg.encode_jpeg_yuv_planes(luma, blue, red, quality=output.quality)
        pictures.append(Picture(output.name, target.width, target.height, jpeg))
    return pictures
