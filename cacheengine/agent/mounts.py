"""Mounted views of a node: mounting a version, keeping what was mounted mounted, and fetchfs under it.

A lease is taken before packs are chosen: from then on nothing is evicted that the image will point at. Views and fetchfs
outlive the agent; a new one finds them by mounts.json and by what the kernel says.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
from blake3 import blake3

from cacheengine import metrics
from cacheengine import wanted as wants
from cacheengine.agent import fetchfs, known_mounts, scrub
from cacheengine.agent.state import MountRecord, Node, mounted_versions, note_mounted, save_mounts
from cacheengine.errors import Busy
from cacheengine.packs import packcache, reserving
from cacheengine.packs.have import Mask
from cacheengine.segments import ROWS
from cacheengine.views import backends, superblocks, views
from cacheengine.views.image import Attributes
from cacheengine.views.superblocks import Leftover
from cacheengine.views.views import ViewPlan
from cacheengine.wanted import Want
from cacheengine.wire import Failure, MountAnswer, MountReport, MountRequest, Owner, UmountAnswer
from lake import refs
from lake.errors import Explained, NotFound, Refused, StoreDown

log = structlog.get_logger()
WATCH_S, LOOK_S = 2.0, 0.25
DROPPED_WITHIN_S = 0.2


def images(node: Node) -> Path:
    """Where views keep images and records: on the disk of the state, never in memory."""
    return node.config.state_dir / "images"


def mount(node: Node, request: MountRequest) -> MountAnswer:
    """Mount `dataset@ref`; the same again is the same answer.

    Raises NotFound, Refused, Busy (something else is there), MountFailed, StoreDown.
    """
    with node.mounting:
        dataset, tag, version = _resolve(node, request)
        target = _target(node, request, dataset, tag)
        with node.lock:
            known = node.mounts.get(str(target))
        if known is not None and (known.report.dataset, known.report.version) != (dataset, version):
            # its open files would lose their lease
            raise Busy(
                f"the folder {target}",
                f"{known.report.dataset}@{known.report.tag}, version {known.report.version[:12]}, is mounted there",
                "unmount it (`outlap umount`) first",
            )
        packs = len(_want(node, version).packs)
        backend, why = backends.choose_backend(request.backend, _folder(images(node)), packs)
        report = MountReport(dataset=dataset, tag=tag, version=version, target=str(target), backend=backend)
        return _mount(node, report, request.only_warm, request.owner, why)


def _want(node: Node, version: str) -> Want:
    """The rows of a version; those of an older release are read anew for their times where the store answers."""
    views_of = node.config.views
    want = wants.load_want(views_of, version)
    if want is not None and want.has_times:
        return want
    try:
        return wants.save_want(node.store(), views_of, version)
    except (StoreDown, NotFound):
        if want is None:
            raise
        return want


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _resolve(node: Node, request: MountRequest) -> tuple[str, str, str]:
    """(dataset, tag, version). Without the store, a version that the node desires is still known by its tag."""
    try:
        found = refs.resolve(node.store(), request.dataset, request.ref)
        return found.dataset, found.tag, found.version
    except StoreDown:
        with node.lock:
            for desired in node.desired.values():
                if desired.dataset == request.dataset and request.ref in (desired.tag, desired.version):
                    return desired.dataset, desired.tag, desired.version
        raise


def _target(node: Node, request: MountRequest, dataset: str, tag: str) -> Path:
    if request.target is None:
        return node.config.mounts / f"{dataset}@{tag}"
    target = Path(request.target)
    if not target.is_absolute() or "\0" in request.target or ".." in target.parts or target == Path("/"):
        raise Refused(f"the folder {request.target[:200]!r}", "it is no plain absolute path", "name one")
    return target


@contextmanager
def _leased(node: Node, record: MountRecord) -> Iterator[None]:
    """Hold the packs of a view that is being made; on an error things are as they were."""
    target = record.report.target
    with node.space, node.lock:
        before = node.mounts.get(target)
        node.mounts[target] = record
        save_mounts(node)
    try:
        yield
    except BaseException:
        with node.space, node.lock:
            if before is None:
                node.mounts.pop(target, None)
            else:
                node.mounts[target] = before
            save_mounts(node)
        raise


def _mount(node: Node, report: MountReport, only_warm: bool, owner: Owner, why: str) -> MountAnswer:
    """Make or replace a view. Caller holds node.mounting."""
    want = _want(node, report.version)
    packs = tuple(part.id for part in want.packs)
    with node.lock:
        before = node.mounts.get(report.target)
    held = set(before.held) if before is not None else set()
    record = MountRecord(
        report=report,
        only_warm=only_warm,
        owner=owner,
        held=tuple(sorted(held.union(packs))),
    )
    with _leased(node, record):
        masks = {part.pack: packcache.resident(node.cache, part) for part in wants.read_packs(want)}
        rows, files, size = want.index, want.files, want.bytes
        if only_warm:
            rows, files, size = _warm_rows(node, want, masks, report.target)
            packs = tuple(pack for pack in packs if masks[pack].any())
        local = {pack: only_warm or bool(masks[pack].all()) for pack in packs}
        remote = tuple(pack for pack in packs if not local[pack])
        numbers = sorted({node.config.fetchfs_of(pack) for pack in remote})
        for failed in fetchfs.ensure(node.config, numbers).values():
            if failed is not None:
                raise failed
        served_by = {number: fetchfs.mount_of(node.config, number) or 0 for number in numbers}
        sizes = {part.id: part.size for part in want.packs}
        plan = ViewPlan(
            dataset=report.dataset,
            tag=report.tag,
            version=report.version,
            target=Path(report.target),
            rows=rows,
            packs=packs,
            devices=tuple(_device(node, pack, sizes[pack], local[pack]) for pack in packs),
            state=images(node),
            fetchfs=node.config.fetchfs if remote else None,
            attributes=Attributes(owner.uid, owner.gid, owner.mode),
        )
        views.mount_view(report.backend, plan, why)
    with node.space, node.lock:
        held.update(pack for pack in packs if local[pack])
        node.mounts[report.target] = record.model_copy(
            update={"held": tuple(sorted(held)), "remote": remote, "served_by": served_by}
        )
        note_mounted(node, report.version)
        save_mounts(node)
        scrub.remember_files(node, node.mounts[report.target])
    log.info(
        "view_mounted",
        dataset=report.dataset,
        version=report.version,
        target=report.target,
        backend=report.backend,
        why=why,
        packs_local=len(packs) - len(remote),
        packs_remote=len(remote),
    )
    return MountAnswer(
        dataset=report.dataset,
        tag=report.tag,
        version=report.version,
        target=report.target,
        backend=report.backend,
        why=why,
        files=files,
        bytes=size,
        packs_local=len(packs) - len(remote),
        packs_remote=len(remote),
    )


def _device(node: Node, pack: str, size: int, is_local: bool) -> Path:
    if not is_local:
        return node.config.fetchfs_file(pack)
    home = packcache.find_pack(node.cache, pack)
    if home is None:  # only empty files are wanted of it: a file of holes will do
        nothing = np.empty(0, np.int64)
        home = reserving.reserve(
            node.cache, [reserving.Need(pack, size, nothing, nothing)], pack, _no_room, str
        )[pack]
    return packcache.pack_path(home, pack)


def _no_room(short: int) -> bool:
    return False


def _warm_rows(node: Node, want: Want, masks: dict[str, Mask], target: str) -> tuple[Path, int, int]:
    """Rows of the files that are resident, saved; (file, files, bytes). Raises Refused when nothing is."""
    paths: list[str] = []
    for place, part in enumerate(want.packs):
        if masks[part.id].any():
            paths += wants.paths_at(want, place, np.flatnonzero(masks[part.id]))
    if not paths:
        raise Refused(
            f"a view of the warm files of version {want.version[:12]}",
            "none of them is resident here",
            "warm the version, or mount it without --only-warm",
        )
    chosen = pa.array(paths, pa.string())
    out = warm_rows_path(node, target)
    part_file, files, size = out.with_suffix(".tmp"), 0, 0
    schema = ROWS if want.has_times else ROWS.remove(ROWS.get_field_index("mtime_s"))
    with pq.ParquetWriter(part_file, schema) as writer:
        for table in wants.read_rows(want.index, schema.names):
            table = table.filter(pc.is_in(table["path"], chosen))
            writer.write_table(table.cast(schema))
            files, size = files + table.num_rows, size + int(pc.sum(table["size"]).as_py() or 0)
    part_file.replace(out)
    return out, files, size


def warm_rows_path(node: Node, target: str) -> Path:
    return _folder(images(node)) / f"warm-{blake3(target.encode()).hexdigest()[:32]}.parquet"


def umount(node: Node, target: str) -> UmountAnswer:
    """Take a view down; its lease ends when nobody can read it any more, in any mount namespace.

    Raises NotFound, Busy, MountFailed.
    """
    with node.mounting:
        with node.lock:
            record = node.mounts.get(target)
            known = ", ".join(sorted(node.mounts)) or "none"
        if record is None:
            raise NotFound(f"a view at {target}", f"this node has views at: {known}", "name one of these")
        note = known_mounts.leave(node, record)
        try:
            views.unmount_view(Path(target), images(node))
        except BaseException:
            if note is not None:
                note.unlink(missing_ok=True)
            raise
        left = _still_read(note)
        with node.space, node.lock:
            if left is not None:
                node.left = (*node.left, left)
            node.mounts.pop(target, None)
            node.files_seen.pop(target, None)
            note_mounted(node, record.report.version)
            save_mounts(node)
            version = record.report.version
            used = mounted_versions(node) | {key.version for key in node.statuses}
            if version not in used:
                wants.forget_want(node.config.views, version)
        warm_rows_path(node, target).unlink(missing_ok=True)
    log.info("view_unmounted", target=target, version=record.report.version, still_read=left is not None)
    node.wake.set()
    return UmountAnswer(
        target=target,
        dataset=record.report.dataset,
        tag=record.report.tag,
        version=record.report.version,
        still_read=left is not None,
        superblocks=left.superblocks if left is not None else (),
    )


def _still_read(note: Path | None) -> Leftover | None:
    """What is noted of a view that was just unmounted, when it is still read; the kernel is given a moment to drop it."""
    if note is None:
        return None
    end = time.monotonic() + DROPPED_WITHIN_S
    while (left := superblocks.load_leftover(note)) is not None and time.monotonic() < end:
        time.sleep(0.02)
    return left


def look_elsewhere(node: Node) -> None:
    """Learn which of the unmounted views are still read, and say so where their versions are to go."""
    with node.lock:
        before, unsure = node.left, "mounts" in node.unsure
    if not before and not unsure:
        return
    known_mounts.recover(node)
    with node.lock:
        read = {left.version: left for left in node.left}
        for key, status in node.statuses.items():
            if status.state == "freeing" and key.version in read:
                left = read[key.version]
                cause = (
                    f"it was unmounted from {left.target} and is still read in another mount namespace, "
                    "perhaps a container: its bytes go when that ends"
                )
                status.failures = (Failure(path="", cause=cause),)
    if node.left != before:
        node.wake.set()


def keep_mounted(node: Node) -> None:
    """One round: fetchfs lives while a view needs it; views that lost it, or that a crash took, are mounted anew; views whose packs
    have become resident get them as local devices. Raises the first error, after all were tried."""
    look_elsewhere(node)
    with node.mounting:
        with node.lock:
            records = list(node.mounts.values())
        started = fetchfs.ensure(node.config, _serving(records))
        first: Exception | None = next((error for error in started.values() if error is not None), None)
        metrics.fetchfs_restarts.inc(sum(error is None for error in started.values()))
        for record in records:
            try:
                why = _why_anew(node, record)
                if why is not None:
                    _mount(node, record.report, record.only_warm, record.owner, why)
            except (Explained, OSError) as error:
                first = first or error
        if first is not None:
            raise first


def _serving(records: Iterable[MountRecord]) -> set[int]:
    """The processes of fetchfs that views stand on."""
    return {number for record in records for number in record.served_by}


def _why_anew(node: Node, record: MountRecord) -> str | None:
    if fetchfs.is_dead(Path(record.report.target)):
        return "it was mounted, and was not there any more"
    lost = scrub.why_replace(node, record)
    if lost is not None:
        metrics.views_replaced.labels("damaged").inc()
        return lost
    if not record.remote:
        return None
    # by what is mounted, not by who started it: an agent may have been killed between the two
    now = {number: fetchfs.mount_of(node.config, number) for number in record.served_by}
    if any(found not in (None, record.served_by[number]) for number, found in now.items()):
        return "fetchfs was started again"
    if not record.served_by:
        return "it was mounted by an agent that had one fetchfs"
    with node.lock:
        is_resident = any(
            status.state == "resident"
            and key.version == record.report.version
            and key.list_id is None
            and status.desired.placement == "all"
            for key, status in node.statuses.items()
        )
    return "its packs have become resident" if is_resident else None


def run(node: Node) -> None:
    """Keep what was mounted mounted, until the node ends. Whether fetchfs lives is looked at more often than the rest."""
    next_round = 0.0
    while not node.ending.wait(LOOK_S):
        with node.lock:
            needed = _serving(node.mounts.values())
        if time.monotonic() < next_round and not any(
            fetchfs.is_dead(fetchfs.folder(node.config, number)) for number in needed
        ):
            continue
        next_round = time.monotonic() + WATCH_S
        try:
            keep_mounted(node)
            node.works("mounts")
        except Exception as error:
            if not isinstance(error, Explained | OSError):
                log.exception("unexpected", part="mounts")
            node.failed("mounts", error)
