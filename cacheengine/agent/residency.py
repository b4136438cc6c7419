"""Making versions resident on this node and letting them go: what the reconcile loop does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import structlog

from cacheengine import crashpoints, disks, eviction, fetch, giveway, metrics, packcache, reserving, throttle
from cacheengine import have as haves
from cacheengine import wanted as wants
from cacheengine.agent.state import (
    EVICTED,
    MOST_FAILURES,
    Node,
    Status,
    leased_packs,
    mounted_versions,
    now_ns,
    save_releasing,
    saved_wants,
)
from cacheengine.eviction import Key
from cacheengine.have import Have
from cacheengine.reserving import Need, give_back
from cacheengine.wanted import Want
from cacheengine.wire import Failure
from lake.errors import Explained

RETRY_FIRST_S, RETRY_MOST_S = 10.0, 600.0
RATES_KEPT = 20

log = structlog.get_logger()


def want_of(node: Node, key: Key) -> Want:
    """The version's rows on this node; from the store when they are not saved yet. Raises Explained."""
    saved = wants.load_want(node.config.views, key.version, key.list_id)
    if saved is not None:
        return saved
    paths = None
    if key.list_id is not None:
        with node.lock:
            desired = node.desired.get(key)
        paths = node.file_list(desired) if desired is not None else None
        if paths is None:
            raise Explained(f"the file list {key.list_id}", "control gave none", "warm the version again")
    return wants.save_want(node.store(), node.config.views, key.version, key.list_id, paths)


def resident_of(node: Node, want: Want) -> tuple[int, int]:
    """(files, bytes) that are resident and checked, from the records on disk."""
    files = size = 0
    for part in wants.read_packs(want):
        mask = packcache.resident(node.cache, part)
        files, size = files + int(mask.sum()), size + int(part.length[mask].sum())
    return files, size


def warm(node: Node, key: Key) -> None:
    """Make a desired version resident; its status says what came of it. Never raises for what the status can say."""
    with node.lock:
        status = node.statuses.get(key)
        if status is None or key not in node.desired:
            return
        node.stop_warm.clear()
        if node.ending.is_set():
            return
        node.warming = key
        if status.state == "waiting":
            status.state = "fetching"
    try:
        _warm(node, key, status)
    except (Explained, OSError) as error:
        _fail(node, key, status, (Failure(path="", cause=str(error)),))
    finally:
        with node.lock:
            node.warming = None
            status.rate_bps = 0.0
            if status.state == "fetching":  # it was stopped, for another one or by a cancel
                status.state = "waiting"


def _warm(node: Node, key: Key, status: Status) -> None:
    want = want_of(node, key)
    with node.lock:
        status.files_total, status.bytes_total = want.files, want.bytes
    files, size = resident_of(node, want)
    with node.lock:
        status.files_resident, status.bytes_resident = files, size
    started, before = time.monotonic(), size
    failures: list[Failure] = []
    if files < want.files:
        failures = _fetch(node, key, want, status)
        # said only from what the records on disk say now
        files, size = resident_of(node, want)
    seconds = time.monotonic() - started
    with node.lock:
        if node.stop_warm.is_set() or node.statuses.get(key) is not status or key not in node.desired:
            return  # freed meanwhile, or the agent ends
        status.files_resident, status.bytes_resident = files, size
        status.checked_ns = now_ns()
        if files == want.files:
            status.state, status.failures, status.tries, status.evicted = "resident", (), 0, False
    if size - before >= 1 << 20 and seconds > 0:
        with node.lock:
            node.rates = [*node.rates, (size - before) / seconds][-RATES_KEPT:]
    if files < want.files:
        _fail(node, key, status, tuple(failures) or tuple(_missing(node, want, "it did not become resident")))
    else:
        log.info(
            "resident",
            dataset=key.dataset,
            version=key.version,
            files=files,
            bytes=size,
            seconds=round(seconds, 3),
        )


def _fail(node: Node, key: Key, status: Status, failures: tuple[Failure, ...]) -> None:
    """Say it, and try again later: the cause may go away by itself."""
    if len(failures) > MOST_FAILURES:
        more = Failure(path="", cause=f"and {len(failures) - MOST_FAILURES + 1} more")
        failures = (*failures[: MOST_FAILURES - 1], more)
    with node.lock:
        if node.statuses.get(key) is not status or key not in node.desired:
            return
        status.state, status.failures, status.checked_ns = "failed", failures, now_ns()
        wait = min(RETRY_MOST_S, RETRY_FIRST_S * 2**status.tries)
        status.tries, status.retry_ns = status.tries + 1, now_ns() + int(wait * 1e9)
    log.error(
        "warm_failed",
        dataset=key.dataset,
        version=key.version,
        failures=len(failures),
        path=failures[0].path,
        cause=failures[0].cause,
    )


def _missing(node: Node, want: Want, cause: str) -> Iterator[Failure]:
    """The paths that are not resident."""
    count = 0
    for place, part in enumerate(wants.read_packs(want)):
        rows = ~packcache.resident(node.cache, part)
        if rows.any():
            for path in wants.paths_at(want, place, rows):
                yield Failure(path=path, cause=cause)
                count += 1
                if count > MOST_FAILURES:
                    return


def _missing_jobs(node: Node, want: Want) -> Iterator[tuple[int, wants.PackWant, haves.Ints]]:
    """(place, members that are missing, rows that each stands for) of each pack that lacks some."""
    for place, part in enumerate(wants.read_packs(want)):
        missing = part.take(~packcache.resident(node.cache, part))
        if len(missing.offset):
            yield place, *fetch.unique_members(missing)


def _fetch(node: Node, key: Key, want: Want, status: Status) -> list[Failure]:
    """Reserve, fetch, check, mark; failures by path. Raises NoSpace, FetchFailed, OSError."""
    needs = [Need(m.pack, m.size, m.offset, m.length) for _, m, _ in _missing_jobs(node, want)]
    what = f"{key.dataset}@{status.desired.tag} on node {node.config.name}"
    with node.space:
        placed = reserving.reserve(
            node.cache, needs, f"warm {what}", _room_maker(node, key), lambda: _advice(node, key)
        )
    del needs
    crashpoints.reach("warm.reserved")
    places: dict[str, int] = {}
    lock, started, done = threading.Lock(), time.monotonic(), 0

    def jobs() -> Iterator[fetch.PackJob]:
        for place, members, counts in _missing_jobs(node, want):
            places[members.pack] = place
            weights[members.pack] = counts
            yield fetch.PackJob(members, placed[members.pack])

    weights: dict[str, haves.Ints] = {}

    def marked(members: wants.PackWant, rows: haves.Ints) -> None:
        nonlocal done
        counts = weights[members.pack][rows]
        size = int((members.length[rows] * counts).sum())
        with lock:
            done += size
        with node.lock:
            status.files_resident += int(counts.sum())
            status.bytes_resident += size
            status.rate_bps = done / max(1e-3, time.monotonic() - started)

    try:
        bad = fetch.fetch(
            node.store(),
            jobs(),
            node.config.fetch_concurrency,
            marked,
            node.stop_warm,
            giveway.to_readers(node.config.state_dir / "counts", node.stop_warm),
            node.open_named,
            throttle.paced(lambda: status.desired.bandwidth_bps, node.stop_warm),
        )
    except BaseException as error:
        if isinstance(error, Explained):
            return list(_missing(node, want, str(error)))
        raise
    finally:
        with node.space:
            for pack, directory in placed.items():
                give_back(directory, pack)
    return _by_path(want, places, bad)


def _by_path(want: Want, places: dict[str, int], bad: list[fetch.Bad]) -> list[Failure]:
    failures: list[Failure] = []
    causes: dict[str, dict[int, str]] = {}
    for one in bad:
        causes.setdefault(one.pack, {})[one.offset] = one.cause
    for pack, by_offset in causes.items():
        part = wants.read_pack(want, places[pack])
        rows = np.flatnonzero(np.isin(part.offset, list(by_offset)))
        paths = wants.paths_at(want, places[pack], rows)
        offsets = part.offset[rows].tolist()
        failures += [Failure(path=p, cause=by_offset[at]) for p, at in zip(paths, offsets, strict=True)]
    return failures


def keeps(node: Node, without: Key | None = None) -> Callable[[str], Have]:
    """pack → members that desired versions (but `without`, and those that were evicted or cancelled) want of it."""
    with node.lock:
        gone = {without, *(key for key, status in node.statuses.items() if status.given_up)}
    known = {key: want for key, want in saved_wants(node).items() if key not in gone}
    places = {key: {part.id: place for place, part in enumerate(want.packs)} for key, want in known.items()}

    def keep(pack: str) -> Have:
        kept = haves.NOTHING
        for key, want in known.items():
            place = places[key].get(pack)
            if place is not None:
                kept = haves.union(kept, wants.read_pack(want, place).keys())
        return kept

    return keep


def trim(node: Node, pack: str, keep: Callable[[str], Have], why: str) -> int:
    """Take from a pack what is not kept; bytes that this freed. Caller holds node.space and knows that it is not leased."""
    directory = packcache.find_pack(node.cache, pack)
    if directory is None:
        return 0
    freed = packcache.keep_only(directory, pack, keep(pack))
    metrics.evicted_bytes.labels(why).inc(freed)
    return freed


def release(node: Node, key: Key) -> None:
    """Let go what a version that is no longer desired held and no other one wants; then it is no longer reported."""
    with node.space:
        with node.lock:
            if key in node.desired:
                return
            if key.version in mounted_versions(node):
                return
        want = wants.load_want(node.config.views, key.version, key.list_id)
        leased, keep, freed = leased_packs(node), keeps(node), 0
        for part in want.packs if want is not None else ():
            if part.id not in leased:
                freed += trim(node, part.id, keep, "freed")
        crashpoints.reach("free.trimmed")
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


def check(node: Node, key: Key) -> None:
    """Whether a resident version still is; when not (someone removed files) it is fetched again."""
    want = want_of(node, key)
    files, size = resident_of(node, want)
    with node.lock:
        status = node.statuses.get(key)
        if status is None or status.state != "resident":
            return
        status.files_resident, status.bytes_resident, status.checked_ns = files, size, now_ns()
        if files < want.files:
            status.state = "waiting"
            log.warning("residency_lost", dataset=key.dataset, version=key.version, files=want.files - files)


def eviction_steps(node: Node, asking: Key | None) -> list[eviction.Step]:
    up = [directory for directory in node.cache.dirs if disks.is_up(directory.path)]
    packs = {p: changed for d in up for p, (_, changed) in packcache.packs_on_disk(d).items()}
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


def _room_maker(node: Node, asking: Key) -> Callable[[int], bool]:
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
    with node.lock:
        status = node.statuses.get(step.key)
        if status is None:
            return 0
        # said before the bytes go: a report may come between
        status.state, status.evicted = "failed", True
        status.failures = (Failure(path="", cause=EVICTED),)
    want = wants.load_want(node.config.views, step.key.version, step.key.list_id)
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


def _advice(node: Node, asking: Key) -> str:
    """What would make room: the versions that are held fast."""
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
