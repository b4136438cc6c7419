"""A drive that was never driven: camera recordings in which every frame carries its own number.

A picture of 80 by 45 cells (48 pixels each in 3840x2160, 16 in 1280x720) holds, two cells from the top left, a code of
12 by 6 cells, black or white: a sync row, four rows of 12 bits (camera 8, frame number 24, CRC-16 of those four
bytes), and the sync row inverted. It survives scaling to 720P and JPEG, so a test can say which frame a JPEG shows.

The same arguments give the same bytes: the encoders run on one thread, and nothing is taken from the clock.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import simplejpeg

from lake.errors import Corrupt

START_NS = 1_780_300_800_000_000_000  # 2026-06-01 08:00:00 UTC
TICKS = 90_000  # stream time base: 1/90000 s
CAMERA_LAG_TICKS = 270  # camera i is triggered 3 ms after camera i-1, as cameras of one car are
CELLS_ACROSS = 80
CODE_ORIGIN = 2
CODE_COLUMNS, CODE_ROWS = 12, 6
MIN_CONTRAST = 60

Plane = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]

# x265 spends its time on searching; the scenery is flat, so nearly all of that is wasted. One thread: same bytes.
X265_FAST = (
    "log-level=none:pools=1:frame-threads=1:bframes=0:scenecut=0:rc-lookahead=0:aq-mode=0:cutree=0:weightp=0:ref=1"
    ":ctu=64:min-cu-size=32:max-merge=1:early-skip=1:fast-intra=1:me=dia:subme=0:no-signhide=1:qp=32"
)


@dataclass(frozen=True)
class Clip:
    """How one recording is encoded.

    times: presentation time of each frame in ticks of 1/90000 s, ascending; None: evenly spaced at `fps`.
    rotation: degrees counter-clockwise that a player turns the picture by.
    """

    width: int = 3840
    height: int = 2160
    fps: int = 10
    frames: int = 30
    codec: str = "libx265"
    gop: int = 10
    pix_fmt: str = "yuv420p"
    params: str = X265_FAST
    times: tuple[int, ...] | None = None
    rotation: int = 0
    lag_ticks: int = 0


def _code_bits(camera: int, frame: int) -> Bits:
    """(CODE_ROWS, CODE_COLUMNS) booleans, True is white."""
    body = bytes([camera]) + frame.to_bytes(3, "big")
    data = body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")
    sync = np.arange(CODE_COLUMNS) % 2 == 0
    rows = np.unpackbits(np.frombuffer(data, np.uint8)).astype(bool).reshape(CODE_ROWS - 2, CODE_COLUMNS)
    return np.vstack([sync, rows, ~sync])


def _draw_code(luma: Plane, camera: int, frame: int, white: int, black: int) -> None:
    cell = luma.shape[1] // CELLS_ACROSS
    bits = _code_bits(camera, frame)
    start = CODE_ORIGIN * cell
    rows, columns = CODE_ROWS * cell, CODE_COLUMNS * cell
    luma[start - cell : start + rows + cell, start - cell : start + columns + cell] = (white + black) // 2
    picture = np.where(bits, white, black).astype(np.uint8)
    luma[start : start + rows, start : start + columns] = np.kron(picture, np.ones((cell, cell), np.uint8))


def read_frame_number(picture: bytes | npt.NDArray[np.uint8]) -> tuple[int, int]:
    """(camera index, frame number) drawn in a frame.

    picture: a JPEG, or an array (height, width) of luma or (height, width, 3) of colour, of any size with 80 cells
    across its longer side. Raises Corrupt when no intact code is there.
    """
    if isinstance(picture, bytes):
        luma = simplejpeg.decode_jpeg(picture, colorspace="GRAY")[:, :, 0]
    else:
        luma = picture if picture.ndim == 2 else picture.mean(axis=2)
    cell = max(luma.shape) / CELLS_ACROSS
    if cell < 3 or min(luma.shape) < (CODE_ORIGIN + CODE_ROWS) * cell:
        raise Corrupt(f"a frame of {luma.shape[1]}x{luma.shape[0]}", "too small to carry a frame code")
    cells = np.empty((CODE_ROWS, CODE_COLUMNS))
    for row in range(CODE_ROWS):
        for column in range(CODE_COLUMNS):
            # the middle half of the cell: its edges are blurred by scaling and by JPEG
            top, left = (CODE_ORIGIN + row + 0.25) * cell, (CODE_ORIGIN + column + 0.25) * cell
            bottom, right = top + cell / 2, left + cell / 2
            cells[row, column] = luma[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))].mean()
    sync = _code_bits(0, 0)[[0, -1]]
    marks = cells[[0, -1]]
    white, black = marks[sync].mean(), marks[~sync].mean()
    bits = cells > (white + black) / 2
    if white - black < MIN_CONTRAST or not np.array_equal(bits[[0, -1]], sync):
        raise Corrupt("a frame", f"no frame code: sync marks have contrast {white - black:.0f}")
    data = np.packbits(bits[1:-1].ravel()).tobytes()
    if binascii.crc_hqx(data[:4], 0xFFFF) != int.from_bytes(data[4:], "big"):
        raise Corrupt("a frame", f"its code {data.hex()} fails its CRC")
    return data[0], int.from_bytes(data[1:4], "big")


class _Scenery:
    """Sky, houses and a road, drawn in luma and chroma; frame k is the world moved on by k steps."""

    def __init__(self, clip: Clip, camera: int, seed: int) -> None:
        rng = np.random.default_rng([seed, camera])
        # everything moves by whole multiples of 16 pixels (at 4K), so that a moved block is found at once
        self._unit = max(2, clip.width // 240) // 2 * 2
        wide = clip.width // self._unit
        self._heights = rng.integers(2, 10, wide * 2) // 2 * 2
        self._heights = np.repeat(self._heights[: wide // 4 + 1], 8)[: wide * 2]
        self._shades = np.repeat(rng.integers(60, 170, wide // 4 + 1), 8)[: wide * 2].astype(np.uint8)
        self._tint = rng.integers(112, 144, 2)
        self._clip = clip
        self._camera = camera
        self._base_u = np.full((clip.height // 2, clip.width // 2), 128, np.uint8)
        self._base_v = self._base_u.copy()
        horizon = clip.height // 4
        self._base_u[:horizon] = 120 + self._tint[0] // 16 * 2
        self._base_v[:horizon] = 112 + self._tint[1] // 16 * 2

    def draw(self, frame: int) -> tuple[Plane, Plane, Plane]:
        clip, unit = self._clip, self._unit
        luma = np.empty((clip.height, clip.width), np.uint8)
        horizon = clip.height // 2
        luma[:horizon] = 190
        luma[horizon:] = 84
        shift = (frame * (1 + self._camera)) % (len(self._heights) // 2)
        wide = clip.width // unit
        heights, shades = self._heights[shift : shift + wide], self._shades[shift : shift + wide]
        edges = np.flatnonzero(np.diff(heights.astype(np.int64) * 256 + shades)) + 1
        for start, end in zip([0, *edges], [*edges, wide], strict=True):
            top = horizon - int(heights[start]) * unit
            luma[top:horizon, start * unit : end * unit] = shades[start]
        # lane marks come nearer
        lane = clip.width // 2
        for mark in range(4):
            top = horizon + (mark * 8 + frame * 2) % 32 * (clip.height // 2) // 32
            luma[top : top + 2 * unit, lane - unit : lane + unit] = 220
        return luma, self._base_u, self._base_v


def _to_frame(planes: tuple[Plane, Plane, Plane], pix_fmt: str) -> av.VideoFrame:
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], "yuv420p")
    for plane, pixels in zip(frame.planes, planes, strict=True):
        target = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        target[:, : pixels.shape[1]] = pixels
    return frame if pix_fmt == "yuv420p" else frame.reformat(format=pix_fmt)


def make_recording(
    path: Path, clip: Clip, *, camera: int = 0, seed: int = 0, start_ns: int | None = START_NS
) -> None:
    """Write one MP4/MOV (by the name's suffix) whose frames carry (camera, 0), (camera, 1), …

    start_ns becomes the container's creation_time, which has whole seconds; None writes none.
    """
    scenery = _Scenery(clip, camera, seed)
    times = clip.times or tuple(TICKS * number // clip.fps for number in range(clip.frames))
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        if start_ns is not None:
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=start_ns // 10**9)
            container.metadata["creation_time"] = moment.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        stream = container.add_stream(clip.codec, rate=clip.fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pix_fmt
        stream.time_base = Fraction(1, TICKS)
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.gop_size = clip.gop
        stream.codec_context.thread_count = 1
        if clip.rotation:
            stream.set_display_rotation(clip.rotation)
        if clip.codec == "libx265":
            stream.options = {"preset": "ultrafast", "x265-params": f"keyint={clip.gop}:{clip.params}"}
        elif clip.codec == "libx264":
            stream.options = {"preset": "ultrafast", "qp": "28", "x264-params": clip.params}
        for number, ticks in enumerate(times):
            planes = scenery.draw(number)
            _draw_code(planes[0], camera, number, white=225, black=25)
            frame = _to_frame(planes, clip.pix_fmt)
            frame.pts, frame.time_base = ticks + clip.lag_ticks, Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_gnss(path: Path, start_ns: int, seconds: float, seed: int) -> None:
    """Ten fixes a second along a street: latitude and longitude in degrees, heading clockwise from north."""
    rng = np.random.default_rng([seed, 255])
    latitude, longitude = 48.137 + rng.uniform(-0.05, 0.05), 11.575 + rng.uniform(-0.05, 0.05)
    lines = ["timestamp_ns,latitude,longitude,altitude_m,speed_mps,heading_deg"]
    for fix in range(int(seconds * 10) + 11):
        speed = 13.9 + np.sin(fix / 20)
        latitude += speed * 0.1 * 0.8 / 111_320
        longitude += speed * 0.1 * 0.6 / (111_320 * np.cos(np.radians(latitude)))
        at = start_ns + (fix - 5) * 100_000_000
        lines.append(f"{at},{latitude:.7f},{longitude:.7f},{519.0 + fix * 0.01:.2f},{speed:.3f},36.87")
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def make_drive(
    folder: Path,
    *,
    vehicle: str = "demo-car",
    drive: str = "demo-drive-1",
    cameras: Sequence[str] = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"),
    seconds: float = 3.0,
    fps: int = 10,
    width: int = 3840,
    height: int = 2160,
    gop: int = 10,
    codec: str = "libx265",
    start_ns: int = START_NS,
    seed: int = 0,
) -> None:
    """Write `<camera>.mp4` for each camera and GNSS.csv straight into `folder` (made when absent).

    Camera i is number i in read_frame_number. Different vehicle or drive names give different scenery.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = binascii.crc32(f"{vehicle}/{drive}/{seed}".encode())

    def record(camera: int) -> None:
        clip = Clip(
            width=width,
            height=height,
            fps=fps,
            frames=round(seconds * fps),
            codec=codec,
            gop=gop,
            params=X265_FAST if codec == "libx265" else "threads=1",
            lag_ticks=camera * CAMERA_LAG_TICKS,
        )
        make_recording(folder / f"{cameras[camera]}.mp4", clip, camera=camera, seed=scene, start_ns=start_ns)

    with ThreadPoolExecutor(max_workers=len(cameras)) as pool:
        list(pool.map(record, range(len(cameras))))
    _write_gnss(folder / "GNSS.csv", start_ns, seconds, scene)
