"""Making versions resident on this node and letting them go: what the reconcile loop does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import structlog

from cacheengine import crashpoints
from cacheengine import wanted as wants
from cacheengine.agent import letgo, rows, shares
from cacheengine.agent.state import (
    MOST_FAILURES,
    Node,
    Status,
    resident_of,
    steady_ns,
)
from cacheengine.fetching import fetch, giveway, pace, progress, throttle
from cacheengine.fetching.fetch import Sources
from cacheengine.packs import have as haves
from cacheengine.packs import packcache, reserving
from cacheengine.packs.eviction import Key
from cacheengine.packs.reserving import Need, give_back
from cacheengine.peers import peers
from cacheengine.wanted import Want
from cacheengine.wire import DesiredVersion, Failure
from lake.errors import Explained

RETRY_FIRST_S, RETRY_MOST_S = 10.0, 600.0
RATES_KEPT = 20
CHECK_EVERY_NS = 60 * 10**9

log = structlog.get_logger()


def my_places(node: Node, desired: DesiredVersion, want: Want) -> tuple[list[int], int | None]:
    """(places in want.packs that this node should hold, the generation of the group that says so)."""
    group = node.group
    mine = shares.share(group, node.config.name, desired, [part.id for part in want.packs])
    is_shared = desired.placement == "spread" and group is not None
    return np.flatnonzero(mine).tolist(), group.generation if is_shared and group is not None else None


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
        node.hear_group()
        _warm(node, key, status)
    except (Explained, OSError) as error:
        _fail(node, key, status, (Failure(path="", cause=str(error)),))
    finally:
        with node.lock:
            node.warming = None
            status.progress = None
            if status.state == "fetching":  # it was stopped, for another one or by a cancel
                status.state = "waiting"


def looked(status: Status) -> None:
    """It was just looked at: the next time is later."""
    status.look_ns = steady_ns() + CHECK_EVERY_NS


def _warm(node: Node, key: Key, status: Status) -> None:
    want = rows.want_of(node, key)
    places, generation = my_places(node, status.desired, want)
    total = sum(want.packs[place].files for place in places)
    files, size = resident_of(node, want, places)
    with node.lock:
        status.files_total, status.bytes_total = total, sum(want.packs[place].bytes for place in places)
        status.files_resident, status.bytes_resident, status.group = files, size, generation
        node.expected[key] = frozenset(want.packs[place].id for place in places)
    started, before = time.monotonic(), size
    failures: list[Failure] = []
    if files < total:
        failures = _fetch(node, key, want, status, places)
        # said only from what the records on disk say now
        files, size = resident_of(node, want, places)
    seconds = time.monotonic() - started
    with node.lock:
        if node.stop_warm.is_set() or node.statuses.get(key) is not status or key not in node.desired:
            return  # freed meanwhile, or the agent ends
        if generation is not None and (node.group is None or node.group.generation != generation):
            return  # its share is another one by now
        status.files_resident, status.bytes_resident = files, size
        looked(status)
        if files == total:
            status.state, status.failures, status.tries, status.evicted = "resident", (), 0, False
            status.was_resident = True
    if size - before >= 1 << 20 and seconds > 0:
        with node.lock:
            node.rates = [*node.rates, (size - before) / seconds][-RATES_KEPT:]
    if files < total:
        lost = failures or list(_missing(node, want, places, "it did not become resident"))
        _fail(node, key, status, tuple(lost))
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
        status.state, status.failures = "failed", failures
        looked(status)
        wait = min(RETRY_MOST_S, RETRY_FIRST_S * 2 ** min(status.tries, 30))
        status.tries, status.retry_ns = status.tries + 1, steady_ns() + int(wait * 1e9)
    log.error(
        "warm_failed",
        dataset=key.dataset,
        version=key.version,
        failures=len(failures),
        path=failures[0].path,
        cause=failures[0].cause,
    )


def _missing(node: Node, want: Want, places: Sequence[int], cause: str) -> Iterator[Failure]:
    """The paths that are not resident."""
    count = 0
    for place, part in zip(places, wants.read_packs(want, places), strict=True):
        rows = ~packcache.resident(node.cache, part)
        if rows.any():
            for path in wants.paths_at(want, place, rows):
                yield Failure(path=path, cause=cause)
                count += 1
                if count > MOST_FAILURES:
                    return


def _missing_jobs(
    node: Node, want: Want, places: Sequence[int]
) -> Iterator[tuple[int, wants.PackWant, haves.Ints]]:
    """(place, members that are missing, rows that each stands for) of each pack that lacks some."""
    for place, part in zip(places, wants.read_packs(want, places), strict=True):
        missing = part.take(~packcache.resident(node.cache, part))
        if len(missing.offset):
            yield place, *fetch.unique_members(missing)


def _rate(node: Node, status: Status) -> float | None:
    """Bytes a second that a warm may fetch just now. What nobody asked for, because the node joined or another one left, fills
    gradually."""
    rates = [status.desired.bandwidth_bps, float(node.config.fill_rate) if is_fill(status) else None]
    return min((rate for rate in rates if rate is not None), default=None)


def is_fill(status: Status) -> bool:
    """Whether a warm of it only follows a change of the group."""
    return status.desired.placement == "spread" and (status.was_resident or status.desired.job is None)


def _fetch(node: Node, key: Key, want: Want, status: Status, mine: Sequence[int]) -> list[Failure]:
    """Reserve, fetch, check, mark; failures by path. Raises NoSpace, FetchFailed, OSError."""
    needs = [Need(m.pack, m.size, m.offset, m.length) for _, m, _ in _missing_jobs(node, want, mine)]
    to_come = sum(fetch.bytes_of_requests(need.offset, need.length) for need in needs)
    in_order = shares.first_mine(node.group, node.config.name, status.desired, want, mine)
    what = f"{key.dataset}@{status.desired.tag} on node {node.config.name}"
    rows.learn(node)  # before anything is evicted for it
    with node.space:
        placed = reserving.reserve(
            node.cache, needs, f"warm {what}", letgo.room_maker(node, key), lambda: letgo.advice(node, key)
        )
    del needs
    crashpoints.reach("warm.reserved")
    places: dict[str, int] = {}
    status.progress = coming = progress.Progress(to_come)

    def jobs() -> Iterator[fetch.PackJob]:
        for place, members, counts in _missing_jobs(node, want, in_order):
            places[members.pack] = place
            weights[members.pack] = counts
            yield fetch.PackJob(members, placed[members.pack])

    weights: dict[str, haves.Ints] = {}
    rate = partial(_rate, node, status)
    from_peers = partial(
        peers.for_warm,
        node.peers,
        shares.held_of(status.desired),
        node.stop_warm.is_set,
        # what is a share of ours is about one of theirs
        min(node.config.fetch_concurrency * fetch.REQUEST, status.bytes_total),
        rate,
    )

    def marked(members: wants.PackWant, rows: haves.Ints) -> None:
        counts = weights[members.pack][rows]
        size = int((members.length[rows] * counts).sum())
        with node.lock:
            status.files_resident += int(counts.sum())
            status.bytes_resident += size
            progress.add_marked(coming, int(members.length[rows].sum()))

    try:
        bad = fetch.fetch(
            node.store(),
            jobs(),
            node.config.fetch_concurrency,
            marked,
            node.stop_warm,
            giveway.to_readers(node.config.state_dir / "counts", node.stop_warm),
            Sources(from_peers(), from_peers(last=True), node.open_named, node.others),
            throttle.paced(rate, node.stop_warm),
            partial(progress.add_came, coming),
        )
    except BaseException as error:
        if isinstance(error, Explained):
            return list(_missing(node, want, mine, str(error)))
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


def check(node: Node, key: Key) -> None:
    """Whether a resident version still is; when not (someone removed files) it is fetched again. Packs that are no longer of its
    share go."""
    want = rows.want_of(node, key)
    with node.lock:
        status = node.statuses.get(key)
    if status is None:
        return
    places, generation = my_places(node, status.desired, want)
    total = sum(want.packs[place].files for place in places)
    files, size = resident_of(node, want, places)
    with node.lock:
        if node.statuses.get(key) is not status or status.state != "resident":
            return
        status.files_resident, status.bytes_resident = files, size
        looked(status)
        if files < total or generation != status.group:
            status.state = "waiting"
            log.warning("residency_lost", dataset=key.dataset, version=key.version, files=total - files)
            return
    if status.desired.placement == "spread":
        letgo.shed(node, key, want)


def coming(node: Node, pack: str) -> int | None:
    """For a peer that asks: bytes that came to this node so far, where a fetch will bring this pack; None when none will."""
    with node.lock:
        for key in node.desired:
            status = node.statuses.get(key)
            if status is not None and status.given_up:
                continue
            under_way = status is None or status.state in ("waiting", "fetching") or node.warming == key
            if under_way and (key not in node.expected or pack in node.expected[key]):
                return pace.mark(pace.SENDERS).bytes
    return None
