"""Letting bytes go: what versions that are desired no more held, what others hold by now, and what makes room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from cacheengine import crashpoints, metrics
from cacheengine import wanted as wants
from cacheengine.agent import ages, rows, shares
from cacheengine.agent.state import (
    EVICTED,
    Node,
    leased_packs,
    mounted_versions,
    resident_of,
    save_releasing,
    saved_wants,
    steady_ns,
)
from cacheengine.packs import disks, eviction, lifetimes, packcache
from cacheengine.packs import have as haves
from cacheengine.packs.eviction import Key
from cacheengine.packs.have import Have
from cacheengine.wanted import Want
from cacheengine.wire import Failure, Group

STILL_READ = (
    "{size} bytes in {packs} packs are still read, perhaps in a container that has the view mounted: "
    "they go when its readers end"
)
GOES_FOR_GOOD = ("freed", "handed over")
STILL_READ_NS = 2 * 10**9

log = structlog.get_logger()


@dataclass(frozen=True)
class Kept:
    """What desired versions want, as of one desired residency and one group. places: of the packs that are kept of each."""

    stamp: tuple[int, tuple[Group, ...]]
    wants: dict[Key, Want]
    places: dict[Key, dict[str, int]]

    def members(self, pack: str) -> Have:
        """Members of a pack that are wanted."""
        kept = haves.NOTHING
        for key, want in self.wants.items():
            place = self.places[key].get(pack)
            if place is not None:
                kept = haves.union(kept, wants.read_pack(want, place).keys())
        return kept


def kept_now(node: Node) -> Kept:
    """What desired versions want, but those that were evicted or cancelled.

    Raises:
        RowsUnknown: the rows of one of them are not here, so nothing may be taken away (agent/rows.py gets them).
    """
    saved = saved_wants(node)
    rows.refuse_unknown(node, saved)
    with node.lock:
        gone = {key for key, status in node.statuses.items() if status.given_up}
        desired, stamp = dict(node.desired), (node.generation, node.groups)
        if desired.keys() - saved.keys():  # it came just now
            rows.refuse_unknown(node, saved)
    known = {key: want for key, want in saved.items() if key not in gone and key in desired}
    places = {}
    for key, want in known.items():
        packs = [part.id for part in want.packs]
        mask = shares.kept(stamp[1], node.config.name, desired[key], packs)
        places[key] = {packs[place]: place for place in np.flatnonzero(mask).tolist()}
    return Kept(stamp, known, places)


def keeps(node: Node) -> Callable[[str], Have]:
    """pack → members that desired versions want of it, as of when it is asked. Raises RowsUnknown, now and when it is asked."""
    kept = kept_now(node)

    def keep(pack: str) -> Have:
        nonlocal kept
        with node.lock:
            stamp = (node.generation, node.groups)
        if stamp != kept.stamp:  # another desired residency came meanwhile: what it wants stays too
            kept = kept_now(node)
        return kept.members(pack)

    return keep


def trim(node: Node, pack: str, keep: Callable[[str], Have], why: str) -> int:
    """Take from a pack what is not kept; bytes that this freed. Caller holds node.space and knows that it is not leased.

    A pack that somebody reads is left whole, and noted in node.held when it was to go for good.
    """
    if node.unsure:
        return 0
    directory = packcache.find_pack(node.cache, pack)
    done = packcache.release(directory, pack, keep(pack)) if directory is not None else packcache.Released()
    with node.lock:
        if done.held and why in GOES_FOR_GOOD:
            node.held[pack] = done.held
        else:
            node.held.pop(pack, None)
    metrics.evicted_bytes.labels(why).inc(done.freed)
    return done.freed


def held_bytes(node: Node) -> dict[Path, int]:
    """For each cache directory the bytes that were to go and that somebody still reads, also in another mount namespace."""
    with node.lock:
        held = dict(node.held)
    found = {directory.path: lifetimes.retired_bytes(directory.path) for directory in node.cache.dirs}
    for pack, size in held.items():
        directory = packcache.find_pack(node.cache, pack)
        if directory is not None:
            found[directory.path] += size
    return found


def release(node: Node, key: Key) -> None:
    """Let go what a version that is no longer desired held and no other one wants; then it is no longer reported."""
    with node.space:
        with node.lock:
            if key in node.desired:
                return
            if key.version in mounted_versions(node):
                return
            if node.unsure:
                _put_off(node, key)
                return
        want = wants.load_want(node.config.views, key.version, key.list_id)
        leased, keep, freed = leased_packs(node), keeps(node), 0
        for part in want.packs if want is not None else ():
            if part.id not in leased:
                freed += trim(node, part.id, keep, "freed")
        crashpoints.reach("free.trimmed")
        if _still_read(node, key, want):
            return
        with node.lock:
            shared = any(
                (k.version, k.list_id) == (key.version, key.list_id) for k in node.statuses if k != key
            )
            if key in node.desired:
                return
            node.statuses.pop(key, None)
            save_releasing(node)
        if not shared:
            wants.forget_want(node.config.views, key.version, key.list_id)
    log.info("released", dataset=key.dataset, version=key.version, list_id=key.list_id, bytes=freed)


def _put_off(node: Node, key: Key) -> None:
    """Nothing is let go while it is not known what is desired and mounted. Caller holds node.lock."""
    status = node.statuses.get(key)
    if status is not None:
        status.failures = (Failure(path="", cause="; ".join(node.unsure.values())),)
        status.retry_ns = steady_ns() + STILL_READ_NS


def _still_read(node: Node, key: Key, want: Want | None) -> bool:
    """Whether packs of a version that is let go are still read; then that is said, and it is tried again."""
    with node.lock:
        packs = [part.id for part in want.packs if part.id in node.held] if want is not None else []
        if not packs:
            return False
        size = sum(node.held[pack] for pack in packs)
        status = node.statuses.get(key)
        if status is not None:
            status.failures = (Failure(path="", cause=STILL_READ.format(size=size, packs=len(packs))),)
            status.retry_ns = steady_ns() + STILL_READ_NS
    log.warning("still_read", dataset=key.dataset, version=key.version, packs=len(packs), bytes=size)
    return True


def shed(node: Node, key: Key, want: Want) -> None:
    """Let go packs of a version that others hold by now."""
    with node.space:
        with node.lock:
            desired, groups = node.desired.get(key), node.groups
        if desired is None:
            return
        packs = [part.id for part in want.packs]
        kept = shares.kept(groups, node.config.name, desired, packs)
        gone = [pack for pack, stays in zip(packs, kept.tolist(), strict=True) if not stays]
        leased, keep, freed = leased_packs(node), keeps(node), 0
        for pack in gone:
            if pack not in leased and packcache.find_pack(node.cache, pack) is not None:
                freed += trim(node, pack, keep, "handed over")
    if freed:
        log.info("handed_over", dataset=key.dataset, version=key.version, bytes=freed)


def changed(node: Node) -> dict[str, int]:
    """Pack on disk → when its record last changed (`steady_ns`)."""
    up = [directory for directory in node.cache.dirs if disks.is_up(directory.path)]
    records = {pack: at for d in up for pack, (_, at) in packcache.packs_on_disk(d).items()}
    with node.lock:
        node.ages = ages.look(node.ages, records, steady_ns(), time.time_ns())
        return {pack: at for pack, (_, at) in node.ages.known.items()}


def eviction_steps(node: Node, asking: Key | None) -> list[eviction.Step]:
    """What may go, in order; nothing while it is not known what is desired and mounted."""
    if node.unsure:
        return []
    packs = changed(node)
    known, mounted = saved_wants(node), mounted_versions(node)
    with node.lock:
        holdings = [
            eviction.Holding(
                key,
                frozenset(part.id for part in known[key].packs) if key in known else frozenset(),
                version.pinned or key.version in mounted,
                node.mounted_ns.get(key.version, 0),
            )
            for key, version in node.desired.items()
            if not node.statuses[key].given_up
        ]
    return eviction.order(packs, holdings, leased_packs(node), asking)


def room_maker(node: Node, asking: Key) -> Callable[[int], bool]:
    """Evicts step by step when a reservation asks; False when nothing is left."""
    steps: Iterator[eviction.Step] | None = None
    keep = keeps(node)

    def make_room(short: int) -> bool:
        nonlocal steps
        steps = iter(eviction_steps(node, asking)) if steps is None else steps
        freed = 0
        for step in steps:
            freed += _take(node, step, keep)
            if freed >= short:
                break
        return freed > 0

    return make_room


def _take(node: Node, step: eviction.Step, keep: Callable[[str], Have]) -> int:
    """Carry out one step of eviction; bytes freed."""
    if step.kind == "trim":
        return trim(node, step.pack, keep, "room")
    assert step.key is not None
    want = wants.load_want(node.config.views, step.key.version, step.key.list_id)
    if want is not None and not _can_be_taken(node, want):
        return 0
    with node.lock:
        status = node.statuses.get(step.key)
        if status is None:
            return 0
        # said before the bytes go: a report may come between
        status.state, status.evicted = "failed", True
        status.failures = (Failure(path="", cause=EVICTED),)
    keep, leased, freed = keeps(node), leased_packs(node), 0
    for part in want.packs if want is not None else ():
        if part.id not in leased:
            freed += trim(node, part.id, keep, "room")
    if want is not None:
        files, size = resident_of(node, want)
        with node.lock:
            status.files_resident, status.bytes_resident = files, size
    log.warning("evicted", dataset=step.key.dataset, version=step.key.version, bytes=freed)
    return freed


def _can_be_taken(node: Node, want: Want) -> bool:
    """Whether any pack of a version is read by nobody, in any mount namespace: else nothing is gained by evicting it."""
    found = ((packcache.find_pack(node.cache, part.id), part.id) for part in want.packs)
    paths = (packcache.pack_path(directory, pack) for directory, pack in found if directory is not None)
    return not all(lifetimes.is_read(path) for path in paths)


def advice(node: Node, asking: Key) -> str:
    """What would make room: the versions that are held fast."""
    if node.unsure:
        return f"nothing is let go on this node: {'; '.join(node.unsure.values())}"
    with node.lock:
        mounted = mounted_versions(node)
        held = []
        for key, status in node.statuses.items():
            if key == asking or not status.bytes_resident:
                continue
            why = "mounted" if key.version in mounted else "pinned" if status.desired.pinned else "resident"
            held.append(f"{key.dataset}@{status.desired.tag} ({why}, {status.bytes_resident} bytes)")
    if not held:
        return "give the node's cache_dirs a larger quota, or warm fewer files (`--files-from`)"
    return f"unmount, unpin or free one of {', '.join(held[:10])}, or give the node a larger quota"
