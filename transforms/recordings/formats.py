"""Formats: which files of a drive are recordings, which belong together, and what opens them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal

import zstandard

from transforms.errors import Unreadable
from transforms.recordings import Recording, annexb, folder, mp4
from transforms.recordings.bag1 import BagLog
from transforms.recordings.log import Log
from transforms.recordings.logs import open_logs
from transforms.recordings.mcap import McapLog
from transforms.recordings.source import FileSource, Source
from transforms.recordings.sqlite import SqliteLog

Format = Literal["mp4", "raw", "mcap", "bag", "db3", "pictures"]
BY_SUFFIX: dict[str, Format] = {
    **dict.fromkeys(mp4.SUFFIXES, "mp4"),
    **dict.fromkeys(annexb.CODECS, "raw"),
    ".mcap": "mcap",
    ".bag": "bag",
    ".db3": "db3",
    **dict.fromkeys(folder.SUFFIXES, "pictures"),
}
SUFFIXES = frozenset(BY_SUFFIX)
LOGS = frozenset({"mcap", "bag", "db3"})
# rosbag2 packs whole files so (`--compression-mode file`)
PACKED = ".zstd"
SPLIT = re.compile(r"(?P<base>.+)_(?P<number>\d{1,6})")
# beyond, a packed file is no bag of a drive but a bomb
MAX_UNPACKED = 1 << 40


def format_of(path: str) -> Format | None:
    """By the name."""
    name = PurePosixPath(path)
    if name.suffix.lower() == PACKED:
        found = BY_SUFFIX.get(PurePosixPath(name.stem).suffix.lower())
        return found if found in LOGS else None
    return BY_SUFFIX.get(name.suffix.lower())


def can_stay(path: str) -> bool:
    """Whether a recording can be read by ranges where it lies: not SQLite's, nor one that is packed whole."""
    return format_of(path) not in (None, "db3") and PurePosixPath(path).suffix.lower() != PACKED


def plain_stem(path: str) -> str:
    """The path without its suffixes."""
    name = PurePosixPath(path)
    while name.suffix.lower() in SUFFIXES | {PACKED}:
        name = name.with_suffix("")
    return str(name)


def split_of(path: str) -> tuple[str, int]:
    """(base, number) of a file of a split log as rosbag2 names them, `<bag>_0.mcap`, `<bag>_1.mcap`; (path, 0) of others."""
    found = SPLIT.fullmatch(plain_stem(path)) if format_of(path) in ("mcap", "db3") else None
    return (found["base"], int(found["number"])) if found else (plain_stem(path), 0)


def _unpacked(source: Source, name: str) -> Source:
    """A file that rosbag2 packed whole, unpacked beside itself."""
    if not isinstance(source, FileSource):
        raise Unreadable(name, "a file that is packed whole can only be read on this machine")
    to = source.path.with_name(source.path.name + ".unpacked")
    done = 0
    try:
        with (
            source.path.open("rb") as packed,
            to.open("wb") as out,
            zstandard.ZstdDecompressor().stream_reader(packed) as reader,
        ):
            while piece := reader.read(4 << 20):
                done += len(piece)
                if done > MAX_UNPACKED:
                    raise Unreadable(name, f"it unpacks to more than {MAX_UNPACKED} bytes")
                out.write(piece)
    except zstandard.ZstdError as error:
        raise Unreadable(name, f"it does not unpack: {error}") from error
    return FileSource(to, source.name, done)


def _log(kind: Format, source: Source, name: str) -> Log:
    if PurePosixPath(name).suffix.lower() == PACKED:
        source = _unpacked(source, name)
    if kind == "mcap":
        return McapLog(source)
    if kind == "bag":
        return BagLog(source)
    if not isinstance(source, FileSource):
        raise Unreadable(name, "a bag of SQLite can only be read on this machine")
    return SqliteLog(source.path, source.name)


def open_group(
    kind: Format, files: Sequence[tuple[str, Source]], channel: str = "", rate: Fraction | None = None
) -> Recording:
    """Open what belongs together: (path in the drive, source) of the parts of a log, the pictures of a channel, or one video.

    channel: of pictures; rate: frames a second of raw video, from beside it. Raises Unreadable.
    """
    if kind == "pictures":
        return folder.open_folder(channel, files)
    if kind in LOGS:
        return open_logs([_log(kind, source, path) for path, source in files])
    path, source = files[0]
    if kind == "raw":
        return annexb.open_recording(source, annexb.CODECS[Path(path).suffix.lower()], rate)
    return mp4.open_recording(source)
