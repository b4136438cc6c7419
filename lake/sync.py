"""Sync: bring a version into another IDC's store. Only what is missing there moves; the ref moves last.

Packs stream through a local file that is hashed before anything is written at the destination, and that survives a kill: the next
run goes on where it ended. What cannot be copied ends in a dead-letter list, the rest is copied all the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from blake3 import blake3

from lake import leases, manifests, refs, stores
from lake.assemblies import refuse_assembled
from lake.availability import Vanished, confirm, let_appear
from lake.errors import Conflict, Corrupt, LakeError, NotFound
from lake.leases import Writing
from lake.packs import pack_key
from lake.stores import Store
from lake.versions import Available, PackUse, is_available, read_available, read_whole

CHUNK = 8 << 20
PARALLEL = 4
TRIES = 3
Progress = Callable[[int, int], None]
Pace = Callable[[int], None]


@dataclass(frozen=True)
class SyncPlan:
    """What the destination lacks. bytes: of the packs."""

    version: str
    parts: tuple[str, ...]
    locations: tuple[str, ...]
    packs: tuple[PackUse, ...]
    packs_present: int
    bytes: int


@dataclass(frozen=True)
class SyncReport:
    """dead: one line for each pack that could not be copied; when there is one, the version did not appear."""

    dataset: str
    tag: str
    version: str
    packs_copied: int
    packs_present: int
    bytes_copied: int
    seconds: float
    dead: tuple[str, ...] = ()


def plan(source: Store, target: Store, version: str, dataset: str | None = None) -> SyncPlan:
    """The difference between what a version needs and what the target has; nothing is listed. Raises NotFound.

    dataset: what its `latest` names at the target is available there, so its parts and packs are not asked for one by one.
    """
    with ThreadPoolExecutor(2) as pool:  # each side's documents come one after the other
        at_target = pool.submit(_known, target, dataset, version)
        root, there = manifests.read_root(source, version), read_available(source, version)
        known = at_target.result()
    if known is None:
        return SyncPlan(version, (), (), (), len(there.packs), 0)
    refuse_assembled(there, "sync")

    part_ids = [part.id for part in root.parts]
    sizes: dict[str, int | None] = {manifests.part_key(part): None for part in part_ids}
    sizes |= {manifests.location_key(item): None for item in there.locations}
    sizes |= {pack_key(use.id): use.size for use in there.packs}
    asked = [key for key in sizes if key not in known]

    def is_missing(key: str) -> bool:
        info = stores.head(target, key)
        return info is None or sizes[key] not in (None, info.size)

    with ThreadPoolExecutor(8) as pool:
        missing = {key for key, absent in zip(asked, pool.map(is_missing, asked), strict=True) if absent}
    parts = tuple(part for part in part_ids if manifests.part_key(part) in missing)
    locations = tuple(item for item in there.locations if manifests.location_key(item) in missing)
    packs = tuple(use for use in there.packs if pack_key(use.id) in missing)
    return SyncPlan(
        version, parts, locations, packs, len(there.packs) - len(packs), sum(use.size for use in packs)
    )


def _known(target: Store, dataset: str | None, version: str) -> frozenset[str] | None:
    """Keys of what the version that `latest` of the dataset names has at the target: nothing of it is deleted under the lease.

    None when the version itself is available there.
    """
    if is_available(target, version):
        return None
    ref = None if dataset is None else refs.read_ref(target, dataset, refs.LATEST)
    if ref is None:
        return frozenset()
    try:
        root, there = read_whole(target, ref.version)
    except NotFound:
        return frozenset()
    keys = {manifests.part_key(part.id) for part in root.parts}
    keys |= {manifests.location_key(item) for item in there.locations}
    return frozenset(keys | {pack_key(use.id) for use in there.packs if use.id not in there.assembled})


def _copy_pack(
    source: Store, target: Store, use: PackUse, scratch: Path, moved: Callable[[int], None], pace: Pace
) -> None:
    """Fetch (from where an earlier try ended), hash, upload. Raises Corrupt when the bytes do not have their name."""
    key = pack_key(use.id)
    local = scratch / f"{use.id}.partial"
    digest, done = blake3(), 0
    if local.exists() and local.stat().st_size <= use.size:
        digest.update_mmap(local) if local.stat().st_size else None
        done = local.stat().st_size
    with local.open("ab" if done else "wb") as out:
        while done < use.size:
            length = min(CHUNK, use.size - done)
            pace(length)
            piece = stores.get_range(source, key, done, length)
            digest.update(piece)
            out.write(piece)
            done += len(piece)
            moved(len(piece))
    if digest.hexdigest() != use.id:
        local.unlink()
        raise Corrupt(
            f"{key} in store {source.name}", "its bytes do not have the hash of its name", "verify the source"
        )
    stores.put_file(target, key, local)  # which asks for its size afterwards
    local.unlink()


def _copy_packs(
    source: Store, target: Store, work: SyncPlan, scratch: Path, progress: Progress | None, pace: Pace
) -> dict[str, str]:
    """Pack id → cause, for those that could not be copied."""
    lock, done = Lock(), 0

    def moved(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            if progress is not None:
                progress(done, work.bytes)

    def copy(use: PackUse) -> str | None:
        try:
            _copy_pack(source, target, use, scratch, moved, pace)
        except LakeError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(PARALLEL) as pool:
        causes = list(pool.map(copy, work.packs))
    return {use.id: cause for use, cause in zip(work.packs, causes, strict=True) if cause is not None}


def sync(
    source: Store,
    target: Store,
    dataset: str,
    ref: str,
    scratch: Path,
    progress: Progress | None = None,
    pace: Pace = lambda _: None,
) -> SyncReport:
    """Copy what is missing, then let the version appear at the target: available, tag, `latest`.

    progress(done bytes, total bytes). pace(bytes): called before so many are asked for; it may wait.
    Raises NotFound, StoreDown; Conflict when another process syncs through the same scratch.
    """
    with leases.writing(target, f"the sync of {dataset}@{ref}") as lease:
        for _ in range(TRIES - 1):
            try:
                return _sync(source, target, lease, dataset, ref, scratch, progress, pace)
            except Vanished:
                continue  # what was deleted while the lease was lost is copied as well
        return _sync(source, target, lease, dataset, ref, scratch, progress, pace)


def _sync(
    source: Store,
    target: Store,
    lease: Writing,
    dataset: str,
    ref: str,
    scratch: Path,
    progress: Progress | None,
    pace: Pace,
) -> SyncReport:
    started = time.monotonic()
    found = refs.resolve(source, dataset, ref)
    work = plan(source, target, found.version, dataset)
    scratch.mkdir(parents=True, exist_ok=True)
    dead = _copy_packs(source, target, work, scratch, progress, pace)
    dead_key = f"sync/{dataset}/{found.version}.dead.json"
    lines = tuple(f"packs {pack[:12]}: {cause}" for pack, cause in sorted(dead.items()))
    copied = [use for use in work.packs if use.id not in dead]
    report = SyncReport(
        dataset,
        found.tag,
        found.version,
        len(copied),
        work.packs_present,
        sum(use.size for use in copied),
        time.monotonic() - started,
        lines,
    )
    if dead:
        stores.put(target, dead_key, json.dumps(dead, indent=1).encode())
        return report
    _appear(source, target, lease, work)
    if stores.exists(target, dead_key):
        stores.delete(target, dead_key)
    _carry_refs(source, target, found)
    confirm(target, lease, read_available(target, found.version))
    return report


def _appear(source: Store, target: Store, lease: Writing, work: SyncPlan) -> None:
    """Metadata after the bytes: parts, locations, root, and the word that all of it is there."""
    if is_available(target, work.version):
        return
    there: Available = read_available(source, work.version)
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(lambda part: manifests.copy_part(source, target, part), work.parts))
        list(pool.map(lambda item: manifests.copy_locations(source, target, item), work.locations))
    root_key = manifests.root_key(work.version)
    manifests.read_root(source, work.version)
    stores.put_if_absent(target, root_key, stores.get(source, root_key))
    let_appear(target, lease, there)


def _carry_refs(source: Store, target: Store, found: refs.Ref) -> None:
    """The same tags as at the source. `latest` moves only when it is `latest` there too, so that an old version can be synced."""
    at_source = [ref for ref in refs.list_refs(source, found.dataset) if ref.version == found.version]
    for ref in sorted(at_source, key=lambda ref: ref.tag == refs.LATEST):
        known = refs.read_ref(target, ref.dataset, ref.tag)
        if known is not None and known.version != ref.version and refs.NUMBERED.fullmatch(ref.tag):
            raise Conflict(
                f"the ref {ref.dataset}@{ref.tag} in store {target.name}",
                f"it names {known.version[:12]}, the source's names {ref.version[:12]}",
                "publish a dataset in one IDC only",
            )
        refs.move_ref(target, ref)
