"""Stills: what the head of a JPEG, PNG or WebP file says, and whether a JPEG is all there (ITU-T T.81 annex B)."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image

from transforms.recordings import MAX_PIXELS, Orientation

FORMATS = ("JPEG", "PNG", "WEBP")
# EXIF 2.3 tag 274: how to turn the stored picture upright; quarters are counter-clockwise, after the mirror
TURNS = {
    1: Orientation(0, False),
    2: Orientation(0, True),
    3: Orientation(2, False),
    4: Orientation(2, True),
    5: Orientation(1, True),
    6: Orientation(3, False),
    7: Orientation(3, True),
    8: Orientation(1, False),
}


class BadStill(ValueError):
    """It is no picture, or not all of one."""


@dataclass(frozen=True)
class Still:
    """codec: as FFmpeg names it; width, height in pixels as stored."""

    codec: str
    width: int
    height: int


def codec_of(data: bytes | memoryview) -> str | None:
    """By the first bytes; None for what is no still that we know."""
    head = bytes(data[:12])
    if head[:3] == b"\xff\xd8\xff":
        return "mjpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def _jpeg(data: bytes | memoryview) -> Still:
    """Walk the segments up to the scan; then the end marker must follow somewhere."""
    width = height = 0
    at = 2
    while True:
        if at + 4 > len(data):
            raise BadStill(f"its {len(data)} bytes end in its head")
        if data[at] != 0xFF:
            raise BadStill(f"at byte {at} no marker stands")
        marker = data[at + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        (size,) = struct.unpack_from(">H", data, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if at + 9 > len(data):
                raise BadStill(f"its {len(data)} bytes end in its head")
            height, width = struct.unpack_from(">HH", data, at + 5)
        if marker == 0xDA:
            break
        if marker == 0xD9 or size < 2:
            raise BadStill(f"at byte {at} stands a broken segment")
        at += 2 + size
    # trailers (previews, padding) may follow the end marker, so it is looked for from behind, first near the end
    tail = max(at, len(data) - 65_536)
    if bytes(data[tail:]).rfind(b"\xff\xd9") < 0 and bytes(data[at:]).rfind(b"\xff\xd9") < 0:
        raise BadStill(f"its {len(data)} bytes end before the picture does")
    return Still("mjpeg", width, height)


def read_still(data: bytes | memoryview) -> Still:
    """Size and completeness, without decoding. Raises BadStill."""
    codec = codec_of(data)
    if codec is None:
        raise BadStill(f"it begins with {bytes(data[:8]).hex()}, as no JPEG, PNG or WebP does")
    if codec == "mjpeg":
        found = _jpeg(data)
    elif codec == "png":
        if len(data) < 45 or bytes(data[12:16]) != b"IHDR":
            raise BadStill(f"its {len(data)} bytes end in its head")
        if bytes(data[-64:]).rfind(b"IEND") < 0:
            raise BadStill(f"its {len(data)} bytes end before the picture does")
        found = Still("png", *struct.unpack_from(">II", data, 16))
    else:
        (told,) = struct.unpack_from("<I", data, 4)
        if told + 8 > len(data):
            raise BadStill(f"it says {told + 8} bytes, {len(data)} are there")
        with _image(data) as image:
            found = Still("webp", *image.size)
    if not 0 < found.width * found.height <= MAX_PIXELS:
        raise BadStill(f"it says that it has {found.width}x{found.height} pixels")
    return found


def _image(data: bytes | memoryview) -> Image.Image:
    """Opened, not decoded."""
    try:
        with warnings.catch_warnings():
            # its size was checked above, or is below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, struct.error) as error:
        raise BadStill(f"its head cannot be read: {str(error)[:80]}") from error


@dataclass(frozen=True)
class Exif:
    """What a camera writes into a picture. date: "YYYY:MM:DD HH:MM:SS"; gps: GPS tags by number."""

    orientation: Orientation
    date: str | None
    fraction: str | None
    offset: str | None
    gps: dict[int, object]


def read_exif(data: bytes | memoryview) -> Exif:
    """EXIF of a still; nothing of it where there is none, or where it is broken."""
    nothing = Exif(Orientation(), None, None, None, {})
    try:
        with _image(data) as image:
            tags = image.getexif()
            inner = tags.get_ifd(ExifTags.IFD.Exif)
            gps = dict(tags.get_ifd(ExifTags.IFD.GPSInfo))
            turn = TURNS.get(tags.get(ExifTags.Base.Orientation, 1), Orientation())
    except (
        Exception
    ):  # Pillow's reader raises whatever the bytes lead it to; broken EXIF does not spoil the picture
        return nothing
    texts = [inner.get(tag) for tag in (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal)]
    texts.append(inner.get(ExifTags.Base.OffsetTimeOriginal))
    date, fraction, offset = (str(text).strip("\0 ") if text else None for text in texts)
    return Exif(turn, date, fraction, offset, gps)
