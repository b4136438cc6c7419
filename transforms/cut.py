"""Cut: the frames that a recipe asks for, decoded on all cores, as JPEGs in spool files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import av

from transforms.decode import decode_run
from transforms.gpu import decoder_for
from transforms.images import resize_jpeg
from transforms.pictures import Picture, to_pictures
from transforms.plan import (
    Run,
    choose_all,
    choose_keyframes,
    choose_nearest,
    choose_rate,
    choose_windows,
    plan_runs,
)
from transforms.recipe import Events, Output, Rate, Recipe
from transforms.recordings import Channel, FrameIndex
from transforms.times import Int64


@dataclass(frozen=True)
class Piece:
    """One JPEG in a spool file. place: of its frame in the index; width, height in pixels; offset, size in bytes."""

    place: int
    output: str
    width: int
    height: int
    spool: Path
    offset: int
    size: int


@dataclass
class _Bench:
    """What one thread works with: its spool file, and the decoder of the channel that it worked on last."""

    path: Path
    file: BinaryIO
    channel: Channel | None = None
    decoder: av.VideoCodecContext | None = None


@dataclass(frozen=True)
class Workshop:
    """Threads that cut, each with a spool file in one folder."""

    pool: ThreadPoolExecutor
    benches: SimpleQueue[_Bench]
    threads: int


@contextmanager
def open_workshop(folder: Path, threads: int | None = None) -> Iterator[Workshop]:
    """As many threads as this process may use cores. The spool files stay for as long as `folder` does."""
    count = threads or len(os.sched_getaffinity(0))
    benches: SimpleQueue[_Bench] = SimpleQueue()
    made = []
    for number in range(count):
        path = folder / f"spool-{number}"
        made.append(_Bench(path, path.open("wb")))
        benches.put(made[-1])
    try:
        with ThreadPoolExecutor(max_workers=count, thread_name_prefix="cut") as pool:
            yield Workshop(pool, benches, count)
    finally:
        for bench in made:
            bench.file.close()


def choose(index: FrameIndex, times_ns: Int64, recipe: Recipe, moments_ns: Int64 | None = None) -> Int64:
    """Places of the frames that a recipe asks for, ascending in time.

    moments_ns: of a cut by distance or events (transforms.moments).
    """
    cut = recipe.cut
    if isinstance(cut, Rate):
        return choose_rate(index, times_ns, cut.rate_mhz)
    if cut == "all":
        return choose_all(index)
    if cut == "keyframes":
        return choose_keyframes(index)
    assert moments_ns is not None
    if isinstance(cut, Events) and cut.before_ns + cut.after_ns:
        return choose_windows(index, times_ns, moments_ns, cut.before_ns, cut.after_ns)
    return choose_nearest(index, times_ns, moments_ns, recipe.sample_tolerance_ns)


def _made(
    bench: _Bench, channel: Channel, run: Run, outputs: Sequence[Output], threads: int
) -> Iterator[tuple[int, list[Picture]]]:
    """(place, JPEGs) of a run's wanted frames."""
    if channel.codec == "mjpeg":  # whole JPEG files, each with an EXIF of its own
        for place, packet in zip(run.wanted, channel.packets(run.wanted), strict=True):
            yield place, resize_jpeg(bytes(packet), outputs)
        return
    if bench.channel is not channel or bench.decoder is None:
        bench.channel, bench.decoder = channel, decoder_for(channel, threads)
    for place, frame in decode_run(channel, bench.decoder, run):
        yield place, to_pictures(frame, channel.orientation, outputs)


def _cut_run(
    workshop: Workshop, channel: Channel, run: Run, outputs: Sequence[Output], threads: int
) -> list[Piece]:
    bench = workshop.benches.get()
    try:
        pieces = []
        for place, pictures in _made(bench, channel, run, outputs, threads):
            for made in pictures:
                offset = bench.file.tell()
                bench.file.write(made.jpeg)
                pieces.append(
                    Piece(place, made.output, made.width, made.height, bench.path, offset, len(made.jpeg))
                )
        bench.file.flush()
        return pieces
    finally:
        workshop.benches.put(bench)


def cut_channel(
    workshop: Workshop,
    channel: Channel,
    wanted: Int64,
    outputs: Sequence[Output],
    on_frames: Callable[[int], None],
) -> list[Piece]:
    """JPEGs of the frames at `wanted`, by place and output. Raises Unreadable when one of them gives no picture.

    on_frames: told, in the calling thread, how many more frames are done.
    """
    _ = channel.orientation  # found once, not by all threads at the same time
    runs = plan_runs(channel.index, wanted)
    # several runs at once fill the cores better than threads inside of one; a channel of few long runs needs those
    threads = max(1, workshop.threads // max(1, len(runs)))
    futures: list[Future[list[Piece]]] = [
        workshop.pool.submit(_cut_run, workshop, channel, run, outputs, threads) for run in runs
    ]
    pieces: list[Piece] = []
    try:
        # in order, so that of several bad runs the same one is told each time
        for future in futures:
            done = future.result()
            pieces += done
            on_frames(len({piece.place for piece in done}))
    finally:
        for future in futures:
            future.cancel()
    return sorted(pieces, key=lambda piece: (piece.place, piece.output))
