"""Sync: bring a version into another IDC's store. Only what is missing there moves; the ref moves last.

Packs stream through a local file that is hashed before anything is written at the destination, and that survives a kill: the next
run goes on where it ended. A pack that cannot be copied for a reason of its own (wrong bytes, not found) ends in a dead-letter list,
the rest is copied all the same. A link that is away is waited for (lake/link_wait.py); if it stays away, the sync ends with an error,
and the next run goes on.

"There" is said only of what the target was asked for in this run, and of what a young verification vouches for (lake/verified.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from blake3 import blake3

from lake import leases, manifests, refs, stores, sync_refs
from lake.assemblies import refuse_assembled
from lake.availability import Vanished, confirm, let_appear
from lake.errors import Corrupt, NotFound, Refused, StoreDown
from lake.leases import Writing
from lake.link_wait import LinkWait, Waiting
from lake.packs import pack_key
from lake.stores import Store
from lake.sync_settings import SyncSettings
from lake.verified import NOTHING, read_vouched
from lake.versions import Available, PackUse, read_available

CHUNK = 8 << 20
PARALLEL = 4
ASKERS = 32
TRIES = 3
Progress = Callable[[int, int], None]
Pace = Callable[[int], None]


@dataclass(frozen=True)
class SyncPlan:
    """What the destination lacks. bytes: of the packs.

    packs_present: packs that are there, of which packs_vouched were not asked for: a verification of vouched_at_ns vouches for them.
    root: whether the root is missing; available: what to say of the version there, None where that stands.
    """

    version: str
    parts: tuple[str, ...]
    locations: tuple[str, ...]
    packs: tuple[PackUse, ...]
    packs_present: int
    bytes: int
    packs_vouched: int = 0
    vouched_at_ns: int = 0
    root: bool = False
    available: Available | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SyncReport:
    """dead: one line for each pack that could not be copied; when there is one, the version did not appear.

    packs_present: packs that were there, of which packs_vouched were not asked for: a verification of vouched_at_ns (0: none) vouches
    for them. kept: one line for each tag of the target that was not moved, for it names something of its own.
    """

    dataset: str
    tag: str
    version: str
    packs_copied: int
    packs_present: int
    bytes_copied: int
    seconds: float
    dead: tuple[str, ...] = ()
    packs_vouched: int = 0
    vouched_at_ns: int = 0
    kept: tuple[str, ...] = ()


def plan(
    source: Store,
    target: Store,
    version: str,
    dataset: str | None = None,
    *,
    settings: SyncSettings | None = None,
    link: LinkWait | None = None,
) -> SyncPlan:
    """Find the difference between what a version needs and what the target has; nothing is listed.

    Each object is asked for, unless a young verification of the dataset at the target vouches for it.

    Args:
        source: the store that has the version.
        target: the store that shall have it.
        version: id of the version.
        dataset: its dataset; None: no verification is looked for.
        settings: how long a verification is believed.
        link: waits for stores that do not answer; None: it does not.

    Returns:
        What the target lacks.

    Raises:
        NotFound: the source has not (all of) the version.
        Refused: the version needs objects that were published in place.
        StoreDown: a store does not answer.
    """
    settings, link = settings or SyncSettings(), link or LinkWait(0)
    trust_s = settings.verified_hours * 3600
    with ThreadPoolExecutor(4) as pool:  # each document takes one way there and back
        known = pool.submit(link.call, lambda: read_vouched(target, dataset, trust_s) if dataset else NOTHING)
        said = pool.submit(link.call, lambda: _said_at(target, version))
        whole = pool.submit(link.call, lambda: read_available(source, version))
        root = link.call(lambda: manifests.read_root(source, version))
        vouched, own, there = known.result(), said.result(), whole.result()

    def missing(of: Available) -> set[str]:
        sizes: dict[str, int | None] = {manifests.root_key(version): None}
        sizes |= {manifests.part_key(part.id): None for part in root.parts}
        sizes |= {manifests.location_key(item): None for item in of.locations}
        sizes |= {pack_key(use.id): use.size for use in of.packs}
        return _missing(target, {key: size for key, size in sizes.items() if key not in vouched.keys}, link)

    lacking, of = set[str](), there
    if own is not None:
        lacking, of = missing(own), own
    if own is None or (lacking and own != there):
        # what the source has is what it can give: it may have been packed in another way there
        refuse_assembled(there, "sync")
        lacking, of = missing(there), there
    elif lacking:
        refuse_assembled(there, "sync")
    packs = tuple(use for use in of.packs if pack_key(use.id) in lacking)
    trusted = sum(pack_key(use.id) in vouched.keys for use in of.packs)
    return SyncPlan(
        version,
        tuple(part.id for part in root.parts if manifests.part_key(part.id) in lacking),
        tuple(item for item in of.locations if manifests.location_key(item) in lacking),
        packs,
        len(of.packs) - len(packs),
        sum(use.size for use in packs),
        trusted,
        vouched.at_ns if trusted else 0,
        manifests.root_key(version) in lacking,
        of if of != own else None,
    )


def _said_at(target: Store, version: str) -> Available | None:
    """What the target says of the version; None where it says nothing that a sync can rely on."""
    try:
        found = read_available(target, version)
    except (NotFound, Corrupt):
        return None
    return None if found.assembled else found


def _missing(target: Store, sizes: dict[str, int | None], link: LinkWait) -> set[str]:
    """Keys of objects that are not there, or have another size (None: any but 0)."""

    def is_missing(key: str) -> bool:
        info = link.call(lambda: stores.head(target, key))
        return info is None or info.size == 0 or sizes[key] not in (None, info.size)

    with ThreadPoolExecutor(min(ASKERS, max(len(sizes), 1))) as pool:
        return {key for key, absent in zip(sizes, pool.map(is_missing, sizes), strict=True) if absent}


@dataclass(frozen=True)
class _Copying:
    """What all packs of one sync share."""

    source: Store
    target: Store
    scratch: Path
    link: LinkWait
    pace: Pace
    moved: Callable[[int], None]


def _fetch(work: _Copying, use: PackUse, local: Path) -> str:
    """Fetch a pack from where an earlier try ended; the hash of what came. Raises NotFound, Corrupt, StoreDown."""
    key = pack_key(use.id)
    digest, done = blake3(), 0
    if local.exists() and local.stat().st_size <= use.size:
        digest.update_mmap(local) if local.stat().st_size else None
        done = local.stat().st_size
    with local.open("ab" if done else "wb") as out:
        while done < use.size:
            length = min(CHUNK, use.size - done)

            def piece(done: int = done, length: int = length) -> bytes:
                try:
                    return stores.get_range(work.source, key, done, length)
                except StoreDown:
                    _check_size(work.source, key, use.size)  # a reason of its own, which no waiting mends
                    raise

            work.pace(length)
            data = work.link.call(piece)
            digest.update(data)
            out.write(data)
            done += len(data)
            work.moved(len(data))
    return digest.hexdigest()


def _check_size(source: Store, key: str, size: int) -> None:
    """Raises NotFound, Corrupt, StoreDown."""
    info = stores.head(source, key)
    if info is None:
        raise NotFound(f"{key} in store {source.name}", "there is no such object", "verify the source")
    if info.size != size:
        raise Corrupt(
            f"{key} in store {source.name}", f"it has {info.size} bytes of {size}", "verify the source"
        )


def _copy_pack(work: _Copying, use: PackUse) -> None:
    """Fetch, hash, upload. Raises Corrupt and NotFound for what is wrong with the pack itself, StoreDown, Refused."""
    key, local = pack_key(use.id), work.scratch / f"{use.id}.partial"
    try:
        if _fetch(work, use, local) != use.id:
            # the piece of an earlier run may be what is wrong: once more from the start
            local.unlink()
            work.moved(-use.size)
            if _fetch(work, use, local) != use.id:
                local.unlink()
                raise Corrupt(
                    f"{key} in store {work.source.name}",
                    "its bytes do not have the hash of its name",
                    f"`outlap verify NAME@TAG --idc {work.source.idc} --repair`",
                )
    except OSError as error:
        raise Refused(
            f"the scratch folder {work.scratch}", error.strerror or str(error), "make room and run it again"
        ) from error
    try:
        work.link.call(lambda: stores.put_file(work.target, key, local))  # which asks for its size afterwards
    except (NotFound, Corrupt) as error:  # no fault of the pack
        raise Refused(error.what, error.why, error.fix) from error
    local.unlink()


def _copy_packs(
    source: Store,
    target: Store,
    packs: Iterable[PackUse],
    scratch: Path,
    progress: Callable[[int], None],
    pace: Pace,
    link: LinkWait,
) -> tuple[dict[str, str], dict[str, StoreDown]]:
    """(pack id → what is wrong with it, pack id → why a store could not be asked). Raises Refused, ReadOnly, Conflict."""
    lock, done, packs = Lock(), 0, list(packs)

    def moved(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            progress(done)

    work = _Copying(source, target, scratch, link, pace, moved)

    def copy(use: PackUse) -> str | StoreDown | None:
        try:
            _copy_pack(work, use)
        except (Corrupt, NotFound) as error:
            return str(error)
        except StoreDown as error:
            return error
        return None

    with ThreadPoolExecutor(PARALLEL) as pool:
        causes = list(zip(packs, pool.map(copy, packs), strict=True))
    dead = {use.id: cause for use, cause in causes if isinstance(cause, str)}
    return dead, {use.id: cause for use, cause in causes if isinstance(cause, StoreDown)}


def sync(
    source: Store,
    target: Store,
    dataset: str,
    ref: str,
    scratch: Path,
    progress: Progress | None = None,
    pace: Pace = lambda _: None,
    *,
    settings: SyncSettings | None = None,
    waiting: Waiting = lambda _: None,
) -> SyncReport:
    """Copy what is missing, then let the version appear at the target: available, tags, `latest`.

    Args:
        source: the store that has the version.
        target: the store that shall have it.
        dataset: name of the dataset.
        ref: a tag, or 6 digits or more of a version id.
        scratch: a folder for packs on their way; the same one each time, so that a sync that was killed goes on.
        progress: called with the bytes that are done and all bytes.
        pace: called before so many bytes are asked for; it may wait.
        settings: how long a link is waited for, and a verification is believed.
        waiting: called with a line for people while a store does not answer.

    Returns:
        What was copied, what was there, and what could not be copied.

    Raises:
        NotFound: the source has not (all of) the version.
        StoreDown: a store did not answer for longer than `settings` allow; the next sync goes on.
        Conflict: the target's numbered tag names another version, or another process syncs through the same scratch.
    """
    settings, progress = settings or SyncSettings(), progress or (lambda *_: None)
    link = LinkWait(settings.link_wait_minutes * 60, waiting)
    found = link.call(lambda: refs.resolve(source, dataset, ref))
    link.call(lambda: sync_refs.check_numbers(source, target, found))
    with leases.writing(target, f"the sync of {dataset}@{ref}") as lease:
        for _ in range(TRIES - 1):
            try:
                return _sync(source, target, lease, found, scratch, progress, pace, settings, link)
            except Vanished:
                continue  # what was deleted while the lease was lost is copied as well
        return _sync(source, target, lease, found, scratch, progress, pace, settings, link)


def _sync(
    source: Store,
    target: Store,
    lease: Writing,
    found: refs.Ref,
    scratch: Path,
    progress: Progress,
    pace: Pace,
    settings: SyncSettings,
    link: LinkWait,
) -> SyncReport:
    started = time.monotonic()
    work = plan(source, target, found.version, found.dataset, settings=settings, link=link)
    scratch.mkdir(parents=True, exist_ok=True)
    dead, away = _copy_packs(
        source, target, work.packs, scratch, lambda done: progress(done, work.bytes), pace, link
    )
    if away:
        raise _unfinished(target, found, work, away)
    copied = [use for use in work.packs if use.id not in dead]
    report = SyncReport(
        found.dataset,
        found.tag,
        found.version,
        len(copied),
        work.packs_present,
        sum(use.size for use in copied),
        time.monotonic() - started,
        tuple(f"packs {pack[:12]}: {cause}" for pack, cause in sorted(dead.items())),
        work.packs_vouched,
        work.vouched_at_ns,
    )
    dead_key = f"sync/{found.dataset}/{found.version}.dead.json"
    if dead:
        link.call(lambda: stores.put(target, dead_key, json.dumps(dead, indent=1).encode()))
        return report
    _appear(source, target, lease, work, link)
    if link.call(lambda: stores.exists(target, dead_key)):
        link.call(lambda: stores.delete(target, dead_key))
    kept = link.call(lambda: sync_refs.carry_refs(source, target, found))
    link.call(lambda: confirm(target, lease, read_available(target, found.version)))
    return replace(report, kept=kept)


def _unfinished(target: Store, found: refs.Ref, work: SyncPlan, away: dict[str, StoreDown]) -> StoreDown:
    first = next(iter(away.values()))
    size = sum(use.size for use in work.packs if use.id in away)
    return StoreDown(
        f"sync {found.dataset}@{found.tag} to {target.idc}",
        f"{first.what}: {first.why}; {len(away)} of {len(work.packs)} packs ({size:,} bytes) remain",
        "run the same sync again when the store answers: what has arrived stays, and it goes on there",
    )


def _appear(source: Store, target: Store, lease: Writing, work: SyncPlan, link: LinkWait) -> None:
    """Metadata after the bytes: parts, locations, root, and the word that all of it is there."""

    def copy_part(part: str) -> None:
        link.call(lambda: manifests.copy_part(source, target, part))

    def copy_locations(item: str) -> None:
        link.call(lambda: manifests.copy_locations(source, target, item))

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(copy_part, work.parts))
        list(pool.map(copy_locations, work.locations))
    if work.root:
        link.call(lambda: manifests.copy_root(source, target, work.version))
    # written again where it was right: so that a collector that found it needless begins its grace anew
    said = work.available or link.call(lambda: read_available(target, work.version))
    link.call(lambda: let_appear(target, lease, said))
