"""A drive in scratch: its files fetched and looked at, and the recordings of it cut."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lake import landing
from lake.errors import Corrupt, NotFound
from lake.landing import Drive
from lake.stores import Store
from transforms import work
from transforms.cut import Piece, Workshop, choose, cut_channel, open_workshop
from transforms.errors import Unreadable, is_of_machine
from transforms.moments import moments_of
from transforms.recipe import Output, Recipe
from transforms.recordings.formats import can_stay
from transforms.recordings.source import StoreSource
from transforms.seen import Seen, fetched, look_all, unfetched
from transforms.times import Int64
from transforms.work import Bench

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cut:
    """A recording with its JPEGs."""

    seen: Seen
    pieces: list[Piece]


def fetch(
    landing_store: Store, drive: Drive, folder: Path, tell: Progress, only: Collection[str] | None = None
) -> list[Seen]:
    """Bring the files of a drive here, or only those with these paths, and look at them. What cannot be brought is marked.

    A recording that would fill more than a quarter of what is free here stays in the store: it is read once to check it, and
    then by ranges.
    """
    files = [file for file in drive.files if only is None or file.path in only]
    total = sum(file.size for file in files)
    done, found = 0, []
    for number, file in enumerate(files):
        tell("fetch", done, total)
        # a number, since the paths of an upload may stand in each other's way
        path = folder / f"{number:06d}"
        try:
            if file.size > _room(folder) and can_stay(file.path):
                for piece in landing.read_file(landing_store, drive.vehicle, drive.drive, file):
                    done += len(piece)
                    tell("fetch", done, total)
                done -= file.size
            else:
                landing.fetch_file(landing_store, drive.vehicle, drive.drive, file, path)
        except NotFound as error:
            found.append(unfetched(file, error.why, missing=True))
        except Corrupt as error:
            found.append(unfetched(file, error.why, missing=False))
        else:
            key = landing.landed_key(drive.vehicle, drive.drive, file.path)
            name = PurePosixPath(file.path).name
            far = None if path.exists() else StoreSource(landing_store, key, name, file.size)
            found.append(fetched(file, far or path))
        done += file.size
    tell("fetch", done, total)
    return look_all(found, drive.start_ns)


def _room(folder: Path) -> int:
    """Most bytes of a file that is brought here: the rest of the disk is for other files and for frames."""
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free // 4


def choose_frames(drive: Sequence[Seen], recipe: Recipe) -> dict[int, Int64]:
    """Place in the drive → the frames of it (places in its index) that a recipe asks for."""
    moments = moments_of(recipe, [seen.track for seen in drive if seen.track])
    return {
        place: choose(seen.index, seen.times_ns, recipe, moments)
        for place, seen in enumerate(drive)
        if seen.index is not None and seen.times_ns is not None
    }


def cut_drive(
    drive: Sequence[Seen],
    recipe: Recipe,
    folder: Path,
    tell: Progress,
    bench: Bench | None = None,
    only: Collection[int] | None = None,
) -> tuple[list[Cut], list[Seen]]:
    """The cut recordings, and the drive with what does not decode marked. All recordings are tried, or those at `only`.

    bench: what is kept there is taken from there, the rest is kept there once it is cut.
    """
    wanted = choose_frames(drive, recipe)
    if only is not None:
        wanted = {place: frames for place, frames in wanted.items() if place in only}
    done, total = 0, sum(len(places) for places in wanted.values())
    tell("cut", done, total)

    def count(more: int) -> None:
        nonlocal done
        done += more
        tell("cut", done, total)

    cuts: list[Cut] = []
    marked = list(drive)
    with open_workshop(folder) as workshop:
        for place, frames in wanted.items():
            seen = drive[place]
            try:
                cuts.append(Cut(seen, _cut(workshop, seen, frames, recipe.outputs, folder, count, bench)))
            except Unreadable as error:
                marked[place] = dataclasses.replace(seen, undecodable=error.why)
    return cuts, marked


def _cut(
    workshop: Workshop,
    seen: Seen,
    frames: Int64,
    outputs: Sequence[Output],
    folder: Path,
    count: Callable[[int], None],
    bench: Bench | None,
) -> list[Piece]:
    """Raises Unreadable for what does not decode, or was tried too often."""
    assert seen.stream is not None
    if bench is None or not len(frames):
        return cut_channel(workshop, seen.stream, frames, outputs, count)
    name = work.cut_name(seen, frames)
    kept = work.load(bench, name, folder)
    if kept is not None:
        count(len(frames))
        return kept
    why = work.begin(bench, name)
    if why is not None:
        raise Unreadable(seen.file.path, why)
    try:
        pieces = cut_channel(workshop, seen.stream, frames, outputs, count)
    except Unreadable as error:
        work.refuse(bench, name, error.why)
        raise
    except Exception as error:
        told = work.excuse if is_of_machine(error) else work.failed
        told(bench, name, f"{type(error).__name__}: {error}")
        raise
    work.save(bench, name, pieces, folder)
    return pieces
