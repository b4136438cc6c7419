"""4K footage and photographs for benchmarks: detail at every scale, motion and the noise of a sensor, the same in each run."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import simplejpeg

WIDTH, HEIGHT, FPS = 3840, 2160, 30
Plane = npt.NDArray[np.uint8]
# as dash cameras write them: a key frame a second, B-frames between
ENCODERS = {
    "H.264": (
        "libx264",
        {"preset": "superfast", "crf": "24", "x264-params": "bframes=3:keyint=30:scenecut=0"},
    ),
    "H.265": (
        "libx265",
        {
            "preset": "ultrafast",
            "x265-params": "log-level=none:bframes=3:keyint=30:min-keyint=30:crf=26:scenecut=0:open-gop=0",
        },
    ),
}


def texture(height: int, width: int, seed: int, detail: float = 0.55) -> Plane:
    """Noise of every size from one pixel to 256, the larger the stronger."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for power in range(9):
        side = 2**power
        noise = rng.standard_normal((height // side + 2, width // side + 2)).astype(np.float32)
        total += np.kron(noise, np.ones((side, side), np.float32))[:height, :width] * side**detail
    total -= total.min()
    return np.asarray((16 + total * (219 / total.max())).astype(np.uint8))


def _fill(frame: av.VideoFrame, planes: list[Plane], number: int, noise: Plane) -> None:
    right, down = number * 8 % 1000, number * 2 % 200
    for place, (plane, source) in enumerate(zip(frame.planes, planes, strict=True)):
        half = 2 if place else 1
        rows, columns = HEIGHT // half, WIDTH // half
        target = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        target[:, :columns] = source[
            down // half : down // half + rows, right // half : right // half + columns
        ]
        if not place:
            at = number * 131 % 512
            target[:, :columns] += noise[at : at + rows, at : at + columns]


def make_video(path: Path, kind: str, frames: int, repeats: int) -> None:
    """So many frames of 4K H.264 or H.265 at 30 Hz, and the same packets again and again: longer, and no costlier to make."""
    codec, options = ENCODERS[kind]
    planes = [
        texture(HEIGHT + 256, WIDTH + 1024, 1),
        *(texture(HEIGHT // 2 + 128, WIDTH // 2 + 512, seed) // 4 + 96 for seed in (2, 3)),
    ]
    noise = np.random.default_rng(4).integers(0, 4, (HEIGHT + 512, WIDTH + 512), dtype=np.uint8)
    coded = io.BytesIO()
    with av.open(coded, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            _fill(frame, planes, number, noise)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    coded.seek(0)
    with av.open(coded, "r") as source, av.open(str(path), "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        times = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        assert packets[0].time_base is not None
        length = int(frames / FPS / packets[0].time_base)
        for turn in range(repeats):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts, copy.time_base = (
                    pts + turn * length,
                    dts + turn * length,
                    packet.time_base,
                )
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)


def make_pictures(count: int) -> list[bytes]:
    """4K JPEGs in 4:2:0, as detailed as a camera's."""
    pictures = []
    luma = texture(HEIGHT + 64 * count, WIDTH, 7, detail=0.3)
    colours = [np.clip(luma.astype(np.int16) + shade, 0, 255).astype(np.uint8) for shade in (-20, 0, 20)]
    for number in range(count):
        rows = slice(64 * number, 64 * number + HEIGHT)
        pixels = np.ascontiguousarray(np.stack([plane[rows] for plane in colours], axis=-1))
        pictures.append(simplejpeg.encode_jpeg(pixels, quality=92, colorsubsampling="420"))
    return pictures


def _luma(picture: bytes) -> npt.NDArray[np.float64]:
    return np.asarray(simplejpeg.decode_jpeg(picture, colorspace="GRAY")[:, :, 0], np.float64)


def psnr(one: bytes, two: npt.NDArray[np.float64]) -> float:
    """Of the luma, dB."""
    return float(10 * np.log10(255**2 / max(1e-9, float(((_luma(one) - two) ** 2).mean()))))


def _means(values: npt.NDArray[np.float64], side: int = 8) -> npt.NDArray[np.float64]:
    """Mean of each window of side x side."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return np.asarray(
        (total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]) / side**2
    )


def ssim(one: bytes, two: npt.NDArray[np.float64]) -> float:
    """Of the luma, windows of 8x8 (Wang et al., 2004)."""
    left = _luma(one)
    mean_left, mean_two = _means(left), _means(two)
    spread_left, spread_two = _means(left * left) - mean_left**2, _means(two * two) - mean_two**2
    both = _means(left * two) - mean_left * mean_two
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_left * mean_two + c1) * (2 * both + c2)
    return float((above / ((mean_left**2 + mean_two**2 + c1) * (spread_left + spread_two + c2))).mean())
