"""Shards: drives as tasks of about the same size, each of which may be killed and run again.

A drive of up to `shard_bytes` is ingested whole by one task, several small ones by the same. The clips of a larger drive (a
recording, all parts of a split log, the pictures of one camera) are dealt out to several tasks, which cut them and keep the
JPEGs (transforms.work); then one task ingests the drive, and finds all of it cut. What a shard gives is named by inputs and recipe
alone, so it does not matter who runs it, where, or how often.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lake import landing, quarantine, stores
from lake.canonical import blake3_hex, canonical_json
from lake.errors import Corrupt, NotFound, ReadOnly, StoreDown
from lake.landing import Drive, LandedFile
from lake.quarantine import Finding
from lake.stores import Store
from transforms import work
from transforms.cutting import Progress, cut_drive, fetch
from transforms.errors import TransformError, is_of_machine
from transforms.ingest import IngestReport, ingest_drive
from transforms.recipe import Distance, Recipe, recipe_id
from transforms.recordings.formats import LOGS, format_of, split_of
from transforms.seen import channel_of
from transforms.work import Bench

SHARD_BYTES = 16 << 30

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One task. drives: (vehicle, drive); clips: groups of paths of the one drive, () where drives are ingested whole."""

    id: str
    drives: tuple[tuple[str, str], ...]
    clips: tuple[tuple[str, ...], ...]
    bytes: int


@dataclass(frozen=True)
class Plan:
    """shards: in any order, at the same time; then split: the drives of which shards have only clips, to be ingested."""

    shards: tuple[Shard, ...]
    split: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard. cut, kept: clips that were cut now, and that were there; reports: of whole drives."""

    id: str
    cut: int = 0
    kept: int = 0
    reports: tuple[IngestReport, ...] = ()


def clips_of(drive: Drive) -> list[list[LandedFile]]:
    """The recordings of a drive, each with all of its files, in the order of COMPLETE.json."""
    groups: dict[tuple[str, str], list[LandedFile]] = {}
    for file in drive.files:
        kind = format_of(file.path)
        if kind is None:
            continue
        key = ("file", file.path)
        if kind in LOGS:
            key = (kind, split_of(file.path)[0])
        elif kind == "pictures":
            key = (kind, channel_of(file))
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def _dealt(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of consecutive items, of up to `most` bytes together; one that is larger is alone."""
    dealt: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if not dealt or size > room:
            dealt.append([])
            room = most
        dealt[-1].append(number)
        room -= size
    return dealt


def _named(recipe: Recipe, drives: Sequence[object], clips: Sequence[Sequence[str]]) -> str:
    what = canonical_json(
        {"recipe": recipe_id(recipe), "drives": list(drives), "clips": [list(c) for c in clips]}
    )
    return blake3_hex(what)[:32]


def plan_shards(
    landing_store: Store,
    pairs: Iterable[tuple[str, str]],
    recipe: Recipe,
    shard_bytes: int = SHARD_BYTES,
) -> Plan:
    """Deal out these (vehicle, drive) into shards of about shard_bytes. The same drives and recipe give the same plan."""
    small: list[tuple[tuple[str, str], str, int]] = []
    shards: list[Shard] = []
    split: list[tuple[str, str]] = []
    for pair in sorted(set(pairs)):
        try:
            drive = landing.read_drive(landing_store, *pair)
        except (NotFound, Corrupt):
            small.append((pair, "", 0))  # its task says what is wrong
            continue
        clips = clips_of(drive)
        total = sum(file.size for file in drive.files)
        # the positions that a cut by distance needs may stand in any clip
        if total <= shard_bytes or len(clips) < 2 or isinstance(recipe.cut, Distance):
            small.append((pair, drive.fingerprint, total))
            continue
        split.append(pair)
        sizes = [sum(file.size for file in clip) for clip in clips]
        for numbers in _dealt(sizes, shard_bytes):
            paths = tuple(tuple(file.path for file in clips[number]) for number in numbers)
            name = _named(recipe, [drive.fingerprint], paths)
            shards.append(Shard(name, (pair,), paths, sum(sizes[number] for number in numbers)))
    for numbers in _dealt([size for _, _, size in small], shard_bytes):
        members = [small[number] for number in numbers]
        name = _named(recipe, [[*pair, fingerprint] for pair, fingerprint, _ in members], ())
        shards.append(
            Shard(name, tuple(pair for pair, _, _ in members), (), sum(size for *_, size in members))
        )
    return Plan(tuple(shards), tuple(split))


def run_shard(
    landing_store: Store,
    lake: Store,
    shard: Shard,
    recipe: Recipe,
    scratch: Path,
    progress: Progress | None = None,
) -> ShardReport:
    """Do what a shard asks for; what an earlier run of it did is not done again.

    Raises TransformError when some of it failed, once the rest is done, and what stores raise. What fails
    work.MOST_TRIES times is set aside: the drive is in quarantine, and the shard is done.
    """
    if shard.clips:
        return _run_clips(landing_store, lake, shard, recipe, scratch, progress or _silent)
    return _run_drives(landing_store, lake, shard, recipe, scratch, progress)


def _silent(step: str, done: int, total: int) -> None:
    """No one asked."""


def _run_clips(
    landing_store: Store, lake: Store, shard: Shard, recipe: Recipe, scratch: Path, tell: Progress
) -> ShardReport:
    (pair,) = shard.drives
    drive = landing.read_drive(landing_store, *pair)
    bench = work.bench_of(lake, drive, recipe)
    beside = {file.path for file in drive.files if format_of(file.path) is None}
    cut = kept = 0
    failed: list[str] = []
    for clip in shard.clips:
        name = f"clip-{blake3_hex(canonical_json(list(clip)))[:32]}"
        if stores.exists(lake, f"{bench.prefix}{name}.done"):
            kept += 1
            continue
        try:
            _cut_clip(landing_store, drive, clip, beside, recipe, scratch, bench, tell)
        except (StoreDown, ReadOnly):
            raise  # down for all of them
        except Exception:
            log.exception("clip %s of %s/%s failed, the shard goes on", clip[0], *pair)
            failed.append(clip[0])
            continue
        stores.put(lake, f"{bench.prefix}{name}.done", b"{}")
        cut += 1
    _raise_failed(shard, failed)
    return ShardReport(shard.id, cut, kept)


def _cut_clip(
    landing_store: Store,
    drive: Drive,
    clip: Sequence[str],
    beside: Iterable[str],
    recipe: Recipe,
    scratch: Path,
    bench: Bench,
    tell: Progress,
) -> None:
    """Cut what a clip has and keep it. What is wrong with it is found again, and judged, when the drive is ingested."""
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="shard-", dir=scratch) as folder:
        seen = fetch(landing_store, drive, Path(folder) / "files", tell, {*clip, *beside})
        cut_drive(seen, recipe, Path(folder), tell, bench)


def _run_drives(
    landing_store: Store,
    lake: Store,
    shard: Shard,
    recipe: Recipe,
    scratch: Path,
    progress: Progress | None,
) -> ShardReport:
    reports: list[IngestReport] = []
    failed: list[str] = []
    for vehicle, drive in shard.drives:
        try:
            bench = work.bench_of(lake, landing.read_drive(landing_store, vehicle, drive), recipe)
        except (Corrupt, NotFound):
            bench = None  # ingest says what is wrong
        why = work.begin(bench, "drive") if bench is not None else None
        if bench is not None and why is not None:
            reports.append(_set_aside(landing_store, lake, vehicle, drive, recipe, why))
            work.clear(bench)  # a retry of the quarantine counts anew
            continue
        try:
            reports.append(ingest_drive(landing_store, lake, vehicle, drive, recipe, scratch, progress))
        except Exception as error:
            if bench is not None:
                told = work.excuse if is_of_machine(error) else work.failed
                told(bench, "drive", f"{type(error).__name__}: {error}")
            if isinstance(error, StoreDown | ReadOnly):
                raise  # down for all of them
            log.exception("drive %s/%s failed, the shard goes on", vehicle, drive)
            failed.append(f"{vehicle}/{drive}")
            continue
        if bench is not None:
            work.clear(bench)
    _raise_failed(shard, failed)
    return ShardReport(shard.id, reports=tuple(reports))


def _set_aside(
    landing_store: Store, lake: Store, vehicle: str, drive: str, recipe: Recipe, why: str
) -> IngestReport:
    findings = (Finding("given-up", "error", landing.COMPLETE, why, inferred=True),)
    fingerprint = landing.read_drive(landing_store, vehicle, drive).fingerprint
    quarantine.add(lake, vehicle, drive, findings, fingerprint)
    return IngestReport(vehicle, drive, "quarantined", recipe_id(recipe), findings=findings)


def _raise_failed(shard: Shard, failed: Sequence[str]) -> None:
    if failed:
        raise TransformError(
            f"the shard {shard.id}",
            f"{len(failed)} of it failed, the rest is done: {', '.join(failed[:10])}",
            "see the log, then run it again: after its last try what fails is set aside",
        )
