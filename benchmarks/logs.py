"""MCAP: how fast a log of pictures is opened, checked and ingested, against a plain loop of the `mcap` package's reader."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from benchmarks.report import Row, row
from lake import landing
from lake.config import StoreConfig
from lake.stores import Store, open_store
from transforms.ingest import ingest_drive
from transforms.recipe import Output, Rate, Recipe
from transforms.recordings.formats import open_group
from transforms.recordings.source import as_source

START_NS, SECOND = 1_780_300_800_000_000_000, 1_000_000_000
CAMERA_HZ, IMU_HZ, FIX_HZ = 10, 200, 10
PLAIN, CHECKED = "a plain mcap reader", "the same, CRCs validated"
OPENED, INGESTED = "MCAP opened, checked and indexed", "MCAP ingested: 2 Hz to 720P, packs, catalogue"
CDR = b"\0\1\0\0"


def _header(at_ns: int) -> bytes:
    """std_msgs/Header with the frame id `cam`: 16 bytes, so that doubles behind it are aligned."""
    return struct.pack("<iII4s", at_ns // SECOND, at_ns % SECOND, 4, b"cam\0")


def _picture(at_ns: int, jpeg: bytes) -> bytes:
    return CDR + _header(at_ns) + struct.pack("<I5s3xI", 5, b"jpeg\0", len(jpeg)) + jpeg


def _imu(at_ns: int) -> bytes:
    return CDR + _header(at_ns) + struct.pack("<37d", *[0.1] * 37)


def _fix(at_ns: int) -> bytes:
    place = 48.0 + (at_ns - START_NS) / SECOND * 1e-4, 11.0
    return CDR + _header(at_ns) + struct.pack("<bxH4x12dB", 0, 1, *place, *[0.0] * 10, 0)


def write_mcap(path: Path, pictures: Sequence[bytes], seconds: int) -> None:
    """One camera at 10 Hz, an IMU at 200 Hz and positions at 10 Hz; chunks of 4 MiB, packed by lz4, with CRCs."""
    with path.open("wb") as out:
        writer = Writer(out, chunk_size=4 << 20, compression=CompressionType.LZ4)
        writer.start("ros2", "outlap bench")

        def topic(name: str, kind: str) -> int:
            schema = writer.register_schema(f"sensor_msgs/msg/{kind}", "ros2msg", b"x")
            return writer.register_channel(name, "cdr", schema)

        camera, imu, fix = (
            topic("/front/compressed", "CompressedImage"),
            topic("/imu", "Imu"),
            topic("/gps", "NavSatFix"),
        )
        for tick in range(seconds * IMU_HZ):
            at = START_NS + tick * SECOND // IMU_HZ
            messages = [(imu, _imu(at))]
            if tick % (IMU_HZ // FIX_HZ) == 0:
                messages.append((fix, _fix(at)))
            if tick % (IMU_HZ // CAMERA_HZ) == 0:
                number = tick * CAMERA_HZ // IMU_HZ
                messages.append((camera, _picture(at, pictures[number % len(pictures)])))
            for channel, data in messages:
                writer.add_message(channel, at, data, at)
        writer.finish()  # type: ignore[no-untyped-call]


def by_mcap(path: Path, crcs: bool) -> tuple[int, int]:
    """(messages, bytes of the file): every message is touched, none decoded."""
    with path.open("rb") as file:
        count = sum(
            len(message.data) > 0
            for _, _, message in make_reader(file, crcs).iter_messages(log_time_order=False)
        )
    return count, path.stat().st_size


def by_us(path: Path) -> tuple[int, int]:
    """(frames, bytes of the file): every CRC checked, pictures indexed, positions and signals read."""
    recording = open_group("mcap", [(path.name, as_source(path))])
    if recording.problems or not recording.tracks or not recording.signals:
        raise AssertionError(f"{path}: {recording.problems}")
    return len(recording.channels[0].index), path.stat().st_size


def _store(folder: Path, name: str) -> Store:
    return open_store(StoreConfig(name=name, idc="here", url=f"file://{folder / name}"))


def _upload(path: Path, folder: Path) -> Store:
    """A landing with the log as its only drive."""
    drive = folder / "drive"
    drive.mkdir()
    (drive / path.name).hardlink_to(path)
    store = _store(folder, "landing")
    landing.upload_drive(store, drive, "car", "d")
    return store


def by_ingest(landing_store: Store, size: int, folder: Path) -> tuple[int, int]:
    """(frames cut, bytes of the file), from the landing to the catalogue, both in folders."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        here = Path(scratch)
        lake = _store(here, "lake")
        recipe = Recipe(cut=Rate(rate_mhz=2000), outputs=(Output(name="720p"),))
        report = ingest_drive(landing_store, lake, "car", "d", recipe, here / "scratch")
        if report.outcome != "ingested":
            raise AssertionError(report.findings)
        return report.frames, size


Systems = dict[str, Callable[[], tuple[int, int]]]


def systems(path: Path, folder: Path) -> Systems:
    """What takes turns. INGESTED reads the log from the landing (SHA-256), keeps it in raw, cuts, packs and writes the catalogue."""
    landing_store = _upload(path, folder)
    return {
        OPENED: lambda: by_us(path),
        PLAIN: lambda: by_mcap(path, False),
        CHECKED: lambda: by_mcap(path, True),
        INGESTED: lambda: by_ingest(landing_store, path.stat().st_size, folder),
    }


def rows(seconds: dict[str, float], size: int) -> list[Row]:
    """seconds: by system; size: of the file in bytes."""
    speed = {name: size / 1e6 / took for name, took in seconds.items()}
    return [
        row(OPENED, speed[OPENED], "MB/s", (PLAIN, speed[PLAIN])),
        row(OPENED, speed[OPENED], "MB/s", (CHECKED, speed[CHECKED])),
        row(INGESTED, speed[INGESTED], "MB/s", (PLAIN, speed[PLAIN])),
    ]
