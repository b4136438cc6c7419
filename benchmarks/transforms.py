"""`outlap bench transforms`: frames from recordings, against one ffmpeg process, Pillow with draft, libvips, and the mcap reader.

Everything is made anew in a scratch folder. The systems take turns, round after round, and the fastest round of each counts: what
else the machine does then hits all of them alike.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks import footage, logs
from benchmarks.report import Plot, Report, Row, machine, row
from lake.errors import NotFound
from transforms.cut import choose, cut_channel, open_workshop
from transforms.images import resize_jpegs
from transforms.recipe import Output, Rate, Recipe
from transforms.recordings.mp4 import open_recording
from transforms.times import ticks_to_ns

RATE = Rate(rate_mhz=2000)
CUTS: dict[str, Recipe] = {"key frames": Recipe(), "2 Hz": Recipe(cut=RATE)}
SMALL = (Output(name="720p"),)
GOAL = ">= 1.1"
QUALITY = 90
CORES = len(os.sched_getaffinity(0))
OURS, FFMPEG = "Outlap", "one ffmpeg process"


@dataclass(frozen=True)
class Spent:
    """wall, cpu in seconds; done: frames; bytes: of what was made."""

    wall: float
    cpu: float
    done: int
    bytes: int


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _timed(work: Callable[[], tuple[int, int]]) -> Spent:
    """work: returns (frames, bytes)."""
    cpu, began = _cpu(), time.monotonic()
    done, size = work()
    return Spent(time.monotonic() - began, _cpu() - cpu, done, size)


def _rounds(systems: Mapping[str, Callable[[], tuple[int, int]]], rounds: int) -> dict[str, Spent]:
    """The fastest round of each; the least CPU of each."""
    found: dict[str, list[Spent]] = {name: [] for name in systems}
    for turn in range(rounds):
        names = list(systems)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(_timed(systems[name]))
    return {
        name: Spent(min(s.wall for s in spent), min(s.cpu for s in spent), spent[0].done, spent[0].bytes)
        for name, spent in found.items()
    }


def cut_by_us(path: Path, recipe: Recipe, folder: Path) -> tuple[int, int]:
    """Open, index and cut a file."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, open_workshop(Path(scratch)) as workshop:
        (channel,) = open_recording(path).channels
        wanted = choose(channel.index, ticks_to_ns(channel.index.pts, channel.index.time_base), recipe)
        pieces = cut_channel(workshop, channel, wanted, recipe.outputs, lambda more: None)
        return len(wanted), sum(piece.size for piece in pieces)


def cut_by_ffmpeg(program: str, path: Path, recipe: Recipe, folder: Path) -> tuple[int, int]:
    """The same cut and both sizes, as people call it: its scaler and its best JPEG quality, its own threads."""
    first = "fps=2," if recipe.cut == RATE else ""
    skip = [] if first else ["-skip_frame", "nokey"]
    graph = f"[0:v]{first}split[a][b];[b]scale=1280:720[c]"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        sides = [
            argument
            for name in ("a", "c")
            for argument in (
                "-map",
                f"[{name}]",
                "-vsync",
                "passthrough",
                "-q:v",
                "2",
                f"{scratch}/{name}%06d.jpg",
            )
        ]
        command = [program, "-v", "error", *skip, "-i", str(path), "-filter_complex", graph, *sides]
        subprocess.run(command, check=True)
        made = list(Path(scratch).iterdir())
        return len(made) // 2, sum(one.stat().st_size for one in made)


def bench_video(folder: Path, quick: bool, rows: list[Row], notes: list[str]) -> Plot:
    program = shutil.which("ffmpeg")
    if program is None:
        raise NotFound("ffmpeg", "it is not installed", "install it (`make bench`)")
    frames, repeats, rounds = (60, 3, 2) if quick else (90, 6, 5)
    series: dict[str, list[float | None]] = {OURS: [], FFMPEG: []}
    groups = []
    for kind in footage.ENCODERS:
        path = folder / f"{kind}.mp4"
        footage.make_video(path, kind, frames, repeats)
        seconds = frames * repeats / footage.FPS
        notes.append(f"{kind}: {path.stat().st_size * 8 / seconds / 1e6:.0f} Mbit/s, {seconds:.0f} s, 30 Hz")
        for name, recipe in CUTS.items():
            spent = _rounds(
                {
                    OURS: lambda path=path, recipe=recipe: cut_by_us(path, recipe, folder),  # type: ignore[misc]
                    FFMPEG: lambda path=path, recipe=recipe: cut_by_ffmpeg(program, path, recipe, folder),  # type: ignore[misc]
                },
                rounds,
            )
            us, them = spent[OURS], spent[FFMPEG]
            what = f"4K {kind} → 4K and 720P, {name}"
            rows.append(row(what, us.done / us.wall, "frames/s", (FFMPEG, them.done / them.wall), GOAL))
            rows.append(row(f"{what}: CPU", us.cpu / us.done, "s/frame", (FFMPEG, them.cpu / them.done)))
            notes.append(
                f"{what}: {us.done} frames, {us.bytes // us.done:,} B each; ffmpeg {them.done}, {them.bytes // them.done:,} B"
            )
            groups.append(f"{kind}, {name}")
            series[OURS].append(us.done / us.wall)
            series[FFMPEG].append(them.done / them.wall)
        path.unlink()
    return Plot("4K video → 4K and 720P JPEGs", "frames/s", tuple(groups), series)


def by_pillow(data: bytes) -> bytes:
    """draft decodes at 1/2, Lanczos does the rest."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (1280, 720))
    out = io.BytesIO()
    image.resize((1280, 720), Image.Resampling.LANCZOS).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def by_lanczos(data: bytes) -> Image.Image:
    """The reference: every pixel of the picture."""
    return Image.open(io.BytesIO(data)).convert("RGB").resize((1280, 720), Image.Resampling.LANCZOS)


def by_vips() -> dict[str, Callable[[bytes], bytes]]:
    """libvips told to decode at 1/2, and its own thumbnail (which at 3:1 decodes everything)."""
    os.environ["VIPS_CONCURRENCY"] = "1"  # a thread for each picture, as ours
    try:
        import pyvips  # type: ignore[import-untyped]
    except (ImportError, OSError) as error:
        raise NotFound("libvips", str(error), "install outlap[bench] (`make bench`)") from error
    pyvips.cache_set_max(0)

    def save(image: Any) -> bytes:
        return bytes(image.jpegsave_buffer(Q=QUALITY, subsample_mode="on"))

    return {
        "libvips, decoded at 1/2": lambda data: save(
            pyvips.Image.new_from_buffer(data, "", shrink=2, access="sequential").resize(1280 / 1920)
        ),
        "libvips thumbnail": lambda data: save(pyvips.Image.thumbnail_buffer(data, 1280)),
    }


def _many(
    pool: ThreadPoolExecutor, work: Callable[[bytes], bytes], pictures: Sequence[bytes]
) -> tuple[int, int]:
    made = list(pool.map(work, pictures))
    return len(made), sum(map(len, made))


def _ours(pictures: Sequence[bytes]) -> tuple[int, int]:
    sizes = []
    for made in resize_jpegs(pictures, SMALL, CORES):
        assert isinstance(made, list)
        sizes.append(len(made[0].jpeg))
    return len(sizes), sum(sizes)


def _decoded(data: bytes) -> bytes:
    simplejpeg.decode_jpeg(data, min_width=1920, min_height=1080)
    return b""


def _by_djpeg(program: str, files: Sequence[Path]) -> tuple[int, int]:
    """What libjpeg-turbo's own command needs for a scaled decode, a process for each core at a time: nobody who decodes is faster."""
    with ThreadPoolExecutor(CORES) as pool:
        command = [program, "-scale", "1/2", "-outfile", os.devnull]
        list(pool.map(lambda file: subprocess.run([*command, str(file)], check=True), files))
    return len(files), 0


def bench_logs(
    folder: Path, pictures: Sequence[bytes], quick: bool, rows: list[Row], notes: list[str]
) -> None:
    path, seconds = folder / "drive.mcap", 3 if quick else 12
    logs.write_mcap(path, pictures, seconds)
    spent = _rounds(logs.systems(path, folder), 2 if quick else 5)
    rows += logs.rows({name: one.wall for name, one in spent.items()}, path.stat().st_size)
    notes.append(
        f"MCAP: {path.stat().st_size / 1e6:.0f} MB, {seconds} s of one camera (4K JPEG, 10 Hz), an IMU (200 Hz) and positions (10 Hz), "
        "chunks of 4 MiB in lz4 with CRCs; ingest reads it from the landing, checks its SHA-256 and keeps a copy in raw"
    )
    path.unlink()


def bench_pictures(
    folder: Path, pictures: Sequence[bytes], quick: bool, rows: list[Row], notes: list[str]
) -> Plot:
    batch = list(pictures) * (4 if quick else 3)
    others: dict[str, Callable[[bytes], bytes]] = {"Pillow with draft": by_pillow, **by_vips()}
    floor, program = "the scaled decode alone (djpeg -scale 1/2, in this process)", shutil.which("djpeg")
    files = [folder / f"{number}.jpg" for number in range(len(batch))]
    for file, data in zip(files, batch, strict=True):
        file.write_bytes(data)
    djpeg: dict[str, Callable[[], tuple[int, int]]] = (
        {"djpeg -scale 1/2": lambda: _by_djpeg(program, files)} if program else {}
    )
    with ThreadPoolExecutor(CORES) as pool:
        systems: dict[str, Callable[[], tuple[int, int]]] = {
            OURS: lambda: _ours(batch),
            **{
                name: lambda work=work: _many(pool, work, batch)  # type: ignore[misc]
                for name, work in {**others, floor: _decoded}.items()
            },
            **djpeg,
        }
        spent = _rounds(systems, 8 if quick else 20)
    what = "4K JPEG → 720P"
    us = spent[OURS]
    for name, them in ((name, spent[name]) for name in others):
        rows.append(row(f"{what}", us.done / us.wall, "images/s", (name, them.done / them.wall), GOAL))
        rows.append(row(f"{what}: CPU", us.cpu / us.done, "s/image", (name, them.cpu / them.done)))
    for name in (floor, *djpeg):
        them = spent[name]
        rows.append(row(f"{what}", us.done / us.wall, "images/s", (name, them.done / them.wall)))
        rows.append(row(f"{what}: CPU", us.cpu / us.done, "s/image", (name, them.cpu / them.done)))
    rows += _quality(pictures[0], others, notes)
    notes.append(f"{what}: sources of {len(pictures[0]):,} B; ours {us.bytes // us.done:,} B each")
    series = {name: [one.done / one.wall] for name, one in spent.items()}
    return Plot("4K JPEG → 720P JPEG", "images/s", ("all cores",), series)


def _quality(picture: bytes, others: Mapping[str, Callable[[bytes], bytes]], notes: list[str]) -> list[Row]:
    """What of the likeness to the reference is lost beyond what its own JPEG loses."""
    reference = by_lanczos(picture)
    out = io.BytesIO()
    reference.save(out, "JPEG", quality=QUALITY)
    pixels = np.asarray(reference.convert("L")).astype(np.float64)
    best_ssim, best_psnr = footage.ssim(out.getvalue(), pixels), footage.psnr(out.getvalue(), pixels)
    (found,) = resize_jpegs([picture], SMALL, 1)
    assert isinstance(found, list)
    ours = found[0].jpeg
    for name, work in others.items():
        made = work(picture)
        lost = best_ssim - footage.ssim(made, pixels)
        notes.append(f"{name}: SSIM {lost:.4f} below Lanczos's, PSNR {footage.psnr(made, pixels):.1f} dB")
    notes.append(f"Lanczos over all pixels, as JPEG: SSIM {best_ssim:.4f}, PSNR {best_psnr:.1f} dB")
    return [
        row(
            "4K JPEG → 720P: SSIM lost",
            best_ssim - footage.ssim(ours, pixels),
            "below Lanczos",
            goal="<= 0.005",
        ),
        row("4K JPEG → 720P: PSNR", footage.psnr(ours, pixels), "dB to Lanczos"),
    ]


def run(quick: bool) -> Report:
    """Measure all of it. Raises NotFound where ffmpeg or libvips are missing."""
    rows: list[Row] = []
    notes = [
        "fastest of interleaved rounds; JPEG quality 90 (ffmpeg: -q:v 2), all cores, BT.601 full range from us alone"
    ]
    with tempfile.TemporaryDirectory(prefix="bench-transforms-") as folder:
        pictures = footage.make_pictures(4 if quick else 8)
        shown = bench_pictures(Path(folder), pictures, quick, rows, notes)
        bench_logs(Path(folder), pictures, quick, rows, notes)
        plots = (shown, bench_video(Path(folder), quick, rows, notes))
    versions = {"PyAV": av.__version__, "Pillow": version("pillow"), "ffmpeg": _ffmpeg_version()}
    return Report("Frames from recordings", machine(versions), tuple(rows), tuple(notes), plots)


def _ffmpeg_version() -> str:
    told = subprocess.run(
        [shutil.which("ffmpeg") or "ffmpeg", "-version"], capture_output=True, text=True, check=True
    )
    return told.stdout.split()[2]
