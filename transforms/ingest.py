"""Ingest: one complete drive from the landing to raw, packs and the catalogue, or to quarantine.

fetch → look → judge → cut → keep raw → packs → catalogue. Whatever can refuse the drive comes before the first write, and
the catalogue, which makes the frames visible, is last. Every write is the same when it is made again, so a run that was
killed is simply run again.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake import catalog, landing, packs, quarantine, recipes
from lake.errors import Conflict, Corrupt, NotFound
from lake.landing import Drive
from lake.quarantine import Finding
from lake.stores import Store
from transforms import rules, work
from transforms.cutting import Cut, Progress, cut_drive, fetch
from transforms.errors import TransformError
from transforms.looks import further_columns, look_at
from transforms.packing import Item, catalogue_rows, frame_path, write_packs
from transforms.profiles import read_profile
from transforms.recipe import Recipe, recipe_id, recipe_json
from transforms.samples import align, missing_partners, sample_ids
from transforms.seen import Seen, seconds_of
from transforms.telemetry import positions_at
from transforms.times import Int64, date_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestReport:
    """What became of a drive. bytes: of its JPEGs; seconds: what it took; recipe: its id.

    "already": it was there, and nothing was written; the numbers are those of the catalogue. "quarantined": refused, for
    the errors among `findings`; nothing else was written.
    """

    vehicle: str
    drive: str
    outcome: Literal["ingested", "already", "quarantined"]
    recipe: str
    frames: int = 0
    frames_4k: int = 0
    frames_720p: int = 0
    bytes: int = 0
    packs: int = 0
    recordings: int = 0
    seconds_of_video: float = 0.0
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0


def ingest_drive(
    landing_store: Store,
    lake: Store,
    vehicle: str,
    drive: str,
    recipe: Recipe,
    scratch: Path,
    progress: Progress | None = None,
    keep: bool = False,
) -> IngestReport:
    """Ingest one drive.

    keep: keep each channel that is cut in the lake until all are (transforms.work), and take what is kept there.

    progress: told (step, done, total) of fetch and pack (bytes) and cut (frames), at most once a percent, in this thread.

    Bad recordings do not raise: the report says "quarantined". Raises NotFound while the drive has no COMPLETE.json,
    Conflict when other bytes were ingested under its name, TransformError when there is no scratch space, and what
    stores raise. scratch: a folder with room for the drive and its frames; emptied again.
    """
    began = time.monotonic()
    tell = _sparing(progress)
    named = recipe_id(recipe)
    try:
        landed = landing.read_drive(landing_store, vehicle, drive)
    except Corrupt as error:
        report = _refuse_upload(landing_store, lake, vehicle, drive, named, error)
    else:
        there = _already(lake, landed, named)
        if there is not None:
            report = there
            if quarantine.read(lake, vehicle, drive) is not None:
                quarantine.clear(lake, vehicle, drive)  # a run was killed between the catalogue and this
        else:
            scratch.mkdir(parents=True, exist_ok=True)
            with (
                _explained_space(scratch),
                tempfile.TemporaryDirectory(prefix="ingest-", dir=scratch) as folder,
            ):
                report = _ingest(landing_store, lake, landed, recipe, Path(folder), tell, keep)
        if keep:
            work.clear(work.bench_of(lake, landed, recipe))
    report = dataclasses.replace(report, seconds=round(time.monotonic() - began, 3))
    errors = [finding.rule for finding in report.findings if finding.severity == "error"]
    because = f" ({', '.join(errors)})" if errors else ""
    log.info("drive %s/%s: %s, %d frames%s", vehicle, drive, report.outcome, report.frames, because)
    return report


def _sparing(progress: Progress | None) -> Progress:
    """Pass on what a person can see: whole percents, and the end."""
    told: set[tuple[str, int]] = set()

    def tell(step: str, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if progress is not None and (step, percent) not in told:
            told.add((step, percent))
            progress(step, done, total)

    return tell


@contextmanager
def _explained_space(scratch: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise TransformError(
            f"the scratch folder {scratch}",
            error.strerror or str(error),
            "free space there, or name another folder",
        ) from error


def _refuse_upload(
    landing_store: Store, lake: Store, vehicle: str, drive: str, named: str, error: Corrupt
) -> IngestReport:
    """A COMPLETE.json that is malformed: the drive cannot even be listed."""
    findings = (Finding("bad-upload", "error", landing.COMPLETE, error.why),)
    quarantine.add(
        lake, vehicle, drive, findings, landing.malformed_fingerprint(landing_store, vehicle, drive)
    )
    return IngestReport(vehicle, drive, "quarantined", named, findings=findings)


def _conflict(drive: Drive) -> Conflict:
    return Conflict(
        f"the drive {drive.vehicle}/{drive.drive}",
        "other recordings were ingested under this name, and raw recordings never change",
        "upload it under another name",
    )


def _already(lake: Store, drive: Drive, named: str) -> IngestReport | None:
    """The report of a drive that is all there. Raises Conflict when another one is under its name."""
    known = landing.find_raw(lake, drive.vehicle, drive.drive)
    if known is None:
        return None
    date, fingerprint = known
    if fingerprint != drive.fingerprint:
        raise _conflict(drive)
    try:
        table = catalog.read_frames(lake, date, drive.vehicle, drive.drive, named)
    except NotFound:
        return None
    return _counted(IngestReport(drive.vehicle, drive.drive, "already", named), table)


def _counted(report: IngestReport, table: pa.Table) -> IngestReport:
    outputs = table["output"].to_pylist()
    frames = set(zip(table["channel"].to_pylist(), table["timestamp_ns"].to_pylist(), strict=True))
    return dataclasses.replace(
        report,
        frames=len(frames),
        frames_4k=outputs.count("4k"),
        frames_720p=outputs.count("720p"),
        bytes=sum(table["size"].to_pylist()),
        packs=len(set(table["pack"].to_pylist())),
    )


def _ingest(
    landing_store: Store,
    lake: Store,
    drive: Drive,
    recipe: Recipe,
    folder: Path,
    tell: Progress,
    keep: bool,
) -> IngestReport:
    named = recipe_id(recipe)
    report = IngestReport(drive.vehicle, drive.drive, "quarantined", named)
    bench = work.bench_of(lake, drive, recipe) if keep else None
    drive_seen = fetch(landing_store, drive, folder / "files", tell)
    profile = read_profile(lake, drive.vehicle)
    findings = rules.judge(drive_seen, profile)
    cuts: list[Cut] = []
    if not rules.has_errors(findings):
        cuts, drive_seen = cut_drive(drive_seen, recipe, folder, tell, bench)
        cuts, drive_seen = look_at(cuts, drive_seen, recipe)
        findings = rules.judge(drive_seen, profile)
    if rules.has_errors(findings):
        quarantine.add(lake, drive.vehicle, drive.drive, findings, drive.fingerprint)
        return dataclasses.replace(report, findings=findings)

    date = date_of(min(seen.start_ns for seen in drive_seen if seen.start_ns is not None))
    local = {seen.file.path: seen.path for seen in drive_seen if seen.path}
    landing.keep_raw(lake, drive, date, local, landing_store)
    if landing.raw_fingerprint(lake, drive.vehicle, drive.drive) != drive.fingerprint:
        raise _conflict(drive)  # another run kept another drive under this name while we cut
    table = _pack(lake, drive, date, cuts, drive_seen, recipe, folder, tell)
    recipes.keep_settings(lake, named, recipe_json(recipe))
    catalog.write_frames(lake, table, date, drive.vehicle, drive.drive, named)
    quarantine.clear(
        lake, drive.vehicle, drive.drive
    )  # an earlier upload may have been refused, this one is good
    recordings = [seen for seen in drive_seen if seen.role == "recording"]
    return dataclasses.replace(
        _counted(report, table),
        outcome="ingested",
        recordings=len(recordings),
        seconds_of_video=round(sum(seconds_of(seen) for seen in recordings), 3),
        findings=findings,
    )


def _frames(
    cuts: Sequence[Cut], drive: Drive, date: str, tracks: Sequence[Seen], recipe: Recipe
) -> tuple[pa.Table, list[list[int]]]:
    """What all outputs of a frame share, one row per cut frame; and for each cut, the row of each of its pieces."""
    channels: list[str] = []
    times, numbers, keys, rows_of = [], [], [], []
    for cut in cuts:
        index, at = cut.seen.index, cut.seen.times_ns
        assert index is not None and at is not None
        ranks = _ranks(index.pts, index.shown)
        places = sorted({piece.place for piece in cut.pieces})
        row = {place: len(channels) + number for number, place in enumerate(places)}
        rows_of.append([row[piece.place] for piece in cut.pieces])
        channels += [cut.seen.channel] * len(places)
        times += at[places].tolist()
        numbers += ranks[places].tolist()
        keys += index.key[places].tolist()
    times_ns = np.array(times, np.int64)
    at_positions = positions_at([seen.track for seen in tracks if seen.track], times_ns)
    names = sorted({seen.channel for seen in tracks if seen.stream})
    channel_numbers = np.array([names.index(channel) for channel in channels], np.int64)
    samples = align(times_ns, channel_numbers, recipe.sample_tolerance_ns)
    count = len(channels)
    columns = {
        "drive": pa.array([drive.drive] * count, pa.string()),
        "channel": pa.array(channels, pa.string()),
        "timestamp_ns": pa.array(times_ns, pa.int64()),
        "sample_id": pa.array(sample_ids(drive.vehicle, drive.drive, samples), pa.string()),
        "missing": pa.array(missing_partners(samples, channel_numbers, names), pa.string()),
        "vehicle": pa.array([drive.vehicle] * count, pa.string()),
        "date": pa.array([date] * count, pa.string()),
        "frame_index": pa.array(numbers, pa.int64()),
        "is_key": pa.array(keys, pa.bool_()),
        "latitude": pa.array(at_positions.latitude, pa.float64(), from_pandas=True),
        "longitude": pa.array(at_positions.longitude, pa.float64(), from_pandas=True),
        "speed_mps": pa.array(at_positions.speed_mps, pa.float64(), from_pandas=True),
    }
    named = (drive.vehicle, drive.drive)
    columns |= further_columns(cuts, tracks, named, times_ns, at_positions, recipe)
    return pa.table(columns), rows_of


def _ranks(pts: Int64, shown: npt.NDArray[np.bool_]) -> Int64:
    """Number of each shown frame in order of presentation, from 0; -1 for hidden ones."""
    ranks = np.full(len(pts), -1, np.int64)
    places = np.flatnonzero(shown)
    ranks[places[np.argsort(pts[places], kind="stable")]] = np.arange(len(places))
    return ranks


def _pack(
    lake: Store,
    drive: Drive,
    date: str,
    cuts: Sequence[Cut],
    seen: Sequence[Seen],
    recipe: Recipe,
    folder: Path,
    tell: Progress,
) -> pa.Table:
    """Write the packs; rows of the catalogue, ascending in path."""
    frames, rows_of = _frames(cuts, drive, date, seen, recipe)
    times = frames["timestamp_ns"].to_pylist()
    items = sorted(
        (
            Item(
                frame_path(piece.output, drive.vehicle, drive.drive, cut.seen.channel, times[row]), row, piece
            )
            for cut, rows in zip(cuts, rows_of, strict=True)
            for piece, row in zip(cut.pieces, rows, strict=True)
        ),
        key=lambda item: item.path.encode(),
    )
    named = recipe_id(recipe)
    tables = []
    done, total = 0, sum(item.piece.size for item in items)
    for pack, path, packed in write_packs(items, folder):
        tell("pack", done, total)
        packs.put_pack(lake, pack.id, path)
        path.unlink()
        tables.append(catalogue_rows(pack, packed, frames, named))
        done += sum(item.piece.size for item in packed)
    tell("pack", done, total)
    return pa.concat_tables(tables) if tables else catalogue_rows(None, (), frames, named)
