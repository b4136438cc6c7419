"""Views: mounting one, and finding them again after a restart.

A record (JSON) lies beside the image of each view, written before the mount and removed after it is gone, so that a view is never
without one. All kinds present the same tree, sizes, times, modes and errors.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import structlog
from blake3 import blake3

from cacheengine import state_files
from cacheengine.errors import Busy, MountFailed
from cacheengine.views import backends, mountapi, superblocks
from cacheengine.views.backends import Backend as Backend  # part of what a view says of itself
from cacheengine.views.image import PLAIN, Attributes, build_image, device_sizes
from cacheengine.wanted import read_rows
from lake.errors import Refused

_STARTS_WITHIN_S = 120
_ENDS_WITHIN_S = 10
_LOG_TAIL = 2000
_IMAGE_FORM = 2  # another number when images of the same rows change

log = structlog.get_logger()


@dataclass(frozen=True)
class ViewPlan:
    """What to mount where.

    rows: for wanted.read_rows: path, size, pack, offset, sorted by path. packs: ids, each with the path of its device in `devices`: the
    pack in the cache when every member that the rows name is resident, else `<fetchfs>/<pack id>.tar`. state: folder for
    images and records, on a plain disk file system. fetchfs: its mount point (None when all packs are local). attributes: owner,
    mode and time of the whole tree.
    """

    dataset: str
    tag: str
    version: str
    target: Path
    rows: Path
    packs: tuple[str, ...]
    devices: tuple[Path, ...]
    state: Path
    fetchfs: Path | None = None
    attributes: Attributes = PLAIN


@dataclass(frozen=True)
class View:
    """A view as its record has it. rows_seen: (mtime ns, size) of the rows when it was mounted. mounted: now.

    superblocks: of this view and of those that it replaced, which may be read on elsewhere (see superblocks.py).
    """

    dataset: str
    tag: str
    version: str
    target: Path
    backend: Backend
    why: str
    rows: Path
    rows_seen: tuple[int, int]
    packs: tuple[str, ...]
    devices: tuple[Path, ...]
    packs_local: int
    at_ns: int
    attributes: Attributes = PLAIN
    pid: int | None = None
    mounted: bool = True
    superblocks: tuple[str, ...] = ()


def _record(state: Path, target: Path) -> Path:
    name = blake3(os.fsencode(os.path.abspath(target))).hexdigest()[:32]  # noqa: PTH100 (it may be a dead mount)
    return state / f"view-{name}.json"


def _write(path: Path, view: View) -> None:
    partial = path.with_suffix(".partial")
    values = {key: value for key, value in asdict(view).items() if key != "mounted"}
    partial.write_text(json.dumps(values, default=str, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> View:
    values = _known(View, json.loads(path.read_text(encoding="utf-8")))
    values.update(target=Path(values["target"]), rows=Path(values["rows"]), packs=tuple(values["packs"]))
    values.update(devices=tuple(map(Path, values["devices"])), rows_seen=tuple(values["rows_seen"]))
    values.update(superblocks=tuple(values.get("superblocks", ())))
    return View(**{**values, "attributes": Attributes(**_known(Attributes, values.get("attributes", {})))})


def _known(kind: type[View | Attributes], values: dict[str, Any]) -> dict[str, Any]:
    """Without what another release has added."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def find_view(target: Path, state: Path) -> View | None:
    """The view of which a record says that it is (or was) at this folder."""
    try:
        view = _read(_record(state, target))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.error("a record of a view cannot be read; the view is mounted anew when asked", error=str(error))
        return None
    return replace(view, mounted=mountapi.is_mounted(view.target))


def is_ours(target: Path, state: Path) -> bool:
    """Whether a record, readable or not, says that there is (or was) a view of ours at this folder."""
    return _record(state, target).exists()


def unreadable_records(state: Path) -> list[Path]:
    """Records of views that say nothing: another release wrote them, or they are damaged."""
    found = []
    for path in sorted(state.glob("view-*.json")):
        try:
            _read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            found.append(path)
    return found


def list_views(state: Path) -> list[View]:
    """All views with a record, by target. mounted False: the machine was restarted, or someone else unmounted it."""
    mounted = {mount.target for mount in mountapi.mounts()}
    views = []
    for path in state.glob("view-*.json"):
        try:
            view = _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("a record of a view cannot be read", record=str(path), error=str(error))
            continue
        views.append(replace(view, mounted=mountapi.resolved(view.target) in mounted))
    return sorted(views, key=lambda view: view.target)


def _prepare_target(target: Path, is_known: bool) -> None:
    """Raises Busy, Refused, MountFailed: a view never hides someone else's mount or files."""
    there = mountapi.mount_at(target)
    if there is not None:
        if not is_known and there.source != "outlap-tree":
            raise Busy(
                f"the folder {target}", f"{there.kind} is mounted there, not by us", "choose another folder"
            )
        return
    try:
        target.mkdir(parents=True, exist_ok=True)
        if next(target.iterdir(), None) is not None:
            raise Refused(
                f"the folder {target}", "there are files in it", "choose an empty folder, or a new one"
            )
    except OSError as error:
        raise MountFailed(
            f"the folder {target}", error.strerror or str(error), "choose another folder"
        ) from error


def _build(image: Path, plan: ViewPlan, extended: bool) -> None:
    tables = read_rows(plan.rows, ["path", "size", "pack", "offset", "mtime_s"])
    build_image(image, tables, plan.packs, **asdict(plan.attributes), extended=extended)


def _check_devices(sizes: Sequence[int], plan: ViewPlan) -> None:
    """Raises MountFailed for a local pack that ends before the image does: the kernel would not notice."""
    for size, device in zip(sizes, plan.devices, strict=True):
        if plan.fetchfs is not None and device.is_relative_to(plan.fetchfs):
            continue
        try:
            there = device.stat().st_size
        except OSError as error:
            raise MountFailed(
                f"the pack {device}", error.strerror or str(error), "warm the version again"
            ) from error
        if there < size:
            raise MountFailed(
                f"the pack {device}", "it is shorter than the view needs", "warm the version again"
            )


def mount_view(backend: Backend, plan: ViewPlan, why: str = "") -> View:
    """Mount a version at plan.target, in place of the view that is there, if any: new opens see the new one.

    Raises MountFailed, Busy, Refused, Corrupt; then the view that was there before stays.
    """
    if len(plan.packs) != len(plan.devices):
        raise Refused(
            "the view", f"{len(plan.packs)} packs and {len(plan.devices)} devices", "name one for each"
        )
    plan.state.mkdir(parents=True, exist_ok=True)
    record = _record(plan.state, plan.target)
    known = find_view(plan.target, plan.state)
    _prepare_target(plan.target, is_ours(plan.target, plan.state))
    if known is None and record.exists():
        state_files.set_aside(record)
    status = plan.rows.stat()
    view = View(
        dataset=plan.dataset,
        tag=plan.tag,
        version=plan.version,
        target=plan.target,
        backend=backend,
        why=why,
        rows=plan.rows,
        rows_seen=(status.st_mtime_ns, status.st_size),
        packs=plan.packs,
        devices=plan.devices,
        packs_local=sum(
            plan.fetchfs is None or not device.is_relative_to(plan.fetchfs) for device in plan.devices
        ),
        at_ns=time.time_ns(),
        attributes=plan.attributes,
    )
    extended = backend != "fuse" and not backends.shows_compact_times(backend, plan.state)
    image = _image(record, view, extended)
    if backend != "fuse" and not image.exists():
        _build(image, plan, extended)
    _write(record, view)
    try:
        if backend == "fuse":
            pid = _start_tree(plan, record)
            new = [superblocks.of_process(pid)]
            view = replace(view, pid=pid)
        else:
            _check_devices(device_sizes(image), plan)
            mount = mountapi.mount_erofs if backend == "kernel" else mountapi.mount_loop
            with superblocks.learn() as new:
                mount(image, plan.devices, plan.target)
        view = replace(view, superblocks=(*view.superblocks, *new))
        _write(record, view)
    except BaseException:
        if known is not None:
            _write(record, known)
        else:
            _forget(record)
        raise
    for old in plan.state.glob(f"{record.stem}-*.erofs"):
        if old != image or backend == "fuse":
            old.unlink()  # what is still mounted keeps its file
    log.info("mounted", target=str(plan.target), backend=backend, why=why, packs=len(plan.packs))
    return view


def _image(record: Path, view: View, extended: bool) -> Path:
    """Where its image lies: named by what it is built from, so that an old one is never taken for it."""
    form = [_IMAGE_FORM, extended]
    known = json.dumps(
        [*form, str(view.rows), *view.rows_seen, asdict(view.attributes), *view.packs]
    ).encode()
    return record.with_name(f"{record.stem}-{blake3(known).hexdigest()[:32]}.erofs")


def _forget(record: Path) -> None:
    for image in record.parent.glob(f"{record.stem}-*.erofs"):
        image.unlink()
    if record.is_dir():  # not ours, but in its place
        state_files.set_aside(record)
    for suffix in (".devices", ".log", ".counters", ".json"):  # the record goes last
        record.with_suffix(suffix).unlink(missing_ok=True)


def unmount_view(target: Path, state: Path, lazy: bool = False) -> bool:
    """Take a view down; False when there was none. lazy: even while files are open. Raises Busy, MountFailed."""
    record = _record(state, target)
    there = mountapi.mount_at(target)
    if there is None and not record.exists():
        return False
    if there is not None and not record.exists():
        raise Busy(
            f"the folder {target}", f"{there.kind} is mounted there, not by us", "unmount it with umount"
        )
    known = find_view(target, state)
    mountapi.unmount(target, lazy=lazy)
    if known is not None and known.pid is not None and not lazy:
        _wait_for_end(known.pid)
    _forget(record)
    with suppress(OSError):
        target.rmdir()  # an empty folder that a view left; others stay
    return there is not None


def _wait_for_end(pid: int) -> None:
    """Until the daemon of an unmounted tree has written its last counters, and a little at most."""
    try:
        if b"cacheengine.views.tree" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        process = os.pidfd_open(pid)
    except OSError:
        return  # it has ended
    try:
        select.select([process], [], [], _ENDS_WITHIN_S)
    finally:
        os.close(process)


def _start_tree(plan: ViewPlan, record: Path) -> int:
    devices = record.with_suffix(".devices")
    named = [[pack, str(path)] for pack, path in zip(plan.packs, plan.devices, strict=True)]
    devices.write_text(json.dumps(named), encoding="utf-8")
    options = ["--rows", str(plan.rows), "--devices", str(devices)]
    if plan.fetchfs is not None:
        options += ["--fetchfs", str(plan.fetchfs)]
    same = plan.attributes
    options += ["--uid", str(same.uid), "--gid", str(same.gid), "--mode", f"{same.mode:o}"]
    counters = record.with_suffix(".counters")
    return start_daemon(
        "cacheengine.views.tree", plan.target, options, record.with_suffix(".log"), counters
    ).pid


def start_daemon(
    module: str, mountpoint: Path, options: Sequence[str], logfile: Path, counters: Path
) -> subprocess.Popen[bytes]:
    """Start `cacheengine.views.tree` or `cacheengine.ondemand.fetchfs` and return once its mount answers. It outlives this process.

    Raises MountFailed with the end of its log when it does not come up.
    """
    with suppress(OSError):
        mountpoint.mkdir(parents=True, exist_ok=True)  # fails on a dead mount, which the daemon replaces
    reader, writer = os.pipe()
    command = [sys.executable, "-m", module, "--mountpoint", str(mountpoint), "--counters", str(counters)]
    command += ["--ready-fd", str(writer), *options]
    try:
        with logfile.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[writer],
                start_new_session=True,
            )
        os.close(writer)
        writer = -1
        timer = threading.Timer(_STARTS_WITHIN_S, process.kill)
        timer.start()
        answer = os.read(reader, 1)  # nothing: it has ended
        timer.cancel()
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if not answer:
        process.wait()
        said = logfile.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()
        raise MountFailed(
            f"{module} at {mountpoint}", said or f"it ended with {process.returncode}", f"see {logfile}"
        )
    threading.Thread(target=process.wait, daemon=True).start()  # no zombie when it ends
    return process
