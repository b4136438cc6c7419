"""JPEGs to JPEGs: 4K photographs to smaller ones, decoded at the size that is needed.

libjpeg can leave out the finest waves of each block and so give 1/2, 1/4 or 1/8 of a picture for a fraction of the work. The
smallest of these that is not below the wanted size is taken, then Lanczos does the rest. (3/8 would be nearer to 720P, but
libjpeg-turbo has no SIMD for it, and the result is blurrier: docs/cutting.md.)
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import av
import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from transforms.errors import Unreadable, is_of_machine
from transforms.pictures import Picture, jfif_pictures, to_jfif
from transforms.recipe import Output
from transforms.recordings import MAX_PIXELS, Orientation
from transforms.sizes import target_sizes

FACTORS = (8, 4, 2, 1)  # those with SIMD
EXIF_ORIENTATION, EXIF_IFD, MAKER_NOTE = 0x0112, 0x8769, 0x927C
# EXIF orientation: mirrored?, then quarters counter-clockwise (Exif 3.0, 4.6.5.1.6)
TURNS = {
    1: Orientation(),
    2: Orientation(0, True),
    3: Orientation(2),
    4: Orientation(2, True),
    5: Orientation(1, True),
    6: Orientation(3),
    7: Orientation(3, True),
    8: Orientation(1),
}
EXIF_HEAD = b"Exif\0\0"
MOST_EXIF = 65_533 - len(EXIF_HEAD)

_own = threading.local()


def _factor(width: int, height: int, needed: tuple[int, int]) -> int:
    """The largest of FACTORS that still gives all of `needed` (width, height)."""
    return next(
        f for f in FACTORS if f == 1 or (-(-width // f) >= needed[0] and -(-height // f) >= needed[1])
    )


def _decoded(data: bytes, width: int, height: int, factor: int) -> av.VideoFrame:
    """width / factor x height / factor; of to_jfif where it is whole, RGB where not."""
    if factor == 1:
        # FFmpeg gives the planes as they are: no way through RGB
        decoder = av.CodecContext.create("mjpeg", "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.thread_count, decoder.thread_type = 1, "NONE"
        decoder.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        (frame,) = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
        return to_jfif(frame)
    wide, high = -(-width // factor), -(-height // factor)
    # four bytes a pixel are what the scaler reads fastest; one buffer for each thread, since fresh pages cost as much
    if len(getattr(_own, "pixels", b"")) < wide * high * 4:
        _own.pixels = bytearray(wide * high * 4)
    pixels = simplejpeg.decode_jpeg(data, "RGBX", min_width=wide, min_height=high, buffer=_own.pixels)
    return av.VideoFrame.from_numpy_buffer(pixels, "rgba")


def _is_srgb(profile: bytes) -> bool:
    try:
        return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return True  # a profile that nobody can read says nothing


def _by_pillow(image: Image.Image, profile: bytes | None, needed: tuple[int, int]) -> av.VideoFrame:
    """What libjpeg's RGB does not say rightly: CMYK, and colours of another profile than sRGB."""
    image.draft(None, needed)
    rgb: Image.Image | None = None
    if profile:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        try:
            rgb = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            rgb = None  # a profile of another kind of picture
    return av.VideoFrame.from_ndarray(np.asarray(rgb or image.convert("RGB")), "rgb24")


def _kept_exif(exif: Image.Exif) -> bytes:
    """What the camera says of itself, place and time, without thumbnail and maker's note; the picture is upright now."""
    if not len(exif):
        return b""
    exif[EXIF_ORIENTATION] = 1
    exif.get_ifd(EXIF_IFD).pop(MAKER_NOTE, None)
    return exif.tobytes().removeprefix(EXIF_HEAD)


def _with_exif(jpeg: bytes, exif: bytes) -> bytes:
    """The JPEG with this APP1 after its JFIF header, where it belongs."""
    if not exif or len(exif) > MOST_EXIF:
        return jpeg
    segment = b"\xff\xe1" + (len(EXIF_HEAD) + len(exif) + 2).to_bytes(2, "big") + EXIF_HEAD + exif
    after = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    return jpeg[:after] + segment + jpeg[after:]


def resize_jpeg(data: bytes, outputs: Sequence[Output]) -> list[Picture]:
    """The JPEGs of a JPEG: upright, in sRGB, with its EXIF (its orientation then says: upright). Raises Unreadable."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Unreadable("a picture", f"it has {width}x{height} pixels")
        exif = image.getexif()
        orientation = TURNS.get(exif.get(EXIF_ORIENTATION, 1), Orientation())
        kept = _kept_exif(exif)
        upright = (height, width) if orientation.quarters % 2 else (width, height)
        targets = target_sizes(*upright, outputs)
        needed = (
            (max(t.scaled_width for t in targets), max(t.scaled_height for t in targets))
            if targets
            else (1, 1)
        )
        if orientation.quarters % 2:
            needed = needed[1], needed[0]
        profile = image.info.get("icc_profile")
        if image.mode == "CMYK" or (profile and not _is_srgb(profile)):
            frame = _by_pillow(image, profile, needed)
        else:
            frame = _decoded(data, width, height, _factor(width, height, needed))
        # sizes are those of the whole picture, whatever was decoded of it
        made = jfif_pictures(frame, orientation, outputs, (width, height))
    except (av.FFmpegError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        if is_of_machine(error):
            raise
        raise Unreadable("a picture", f"it does not decode: {' '.join(str(error).split())[:200]}") from error
    return [Picture(p.output, p.width, p.height, _with_exif(p.jpeg, kept)) for p in made]


def resize_jpegs(
    pictures: Iterable[bytes], outputs: Sequence[Output], threads: int
) -> Iterator[list[Picture] | Unreadable]:
    """The same for many, in order, on so many threads of this process; at most four for each thread are in memory."""

    def one(data: bytes) -> list[Picture] | Unreadable:
        try:
            return resize_jpeg(data, outputs)
        except Unreadable as error:
            return error

    waiting: list[Future[list[Picture] | Unreadable]] = []
    source = iter(pictures)
    with ThreadPoolExecutor(threads, thread_name_prefix="resize") as pool:
        waiting += [pool.submit(one, data) for data in islice(source, 4 * threads)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(one, data) for data in islice(source, 1)]
