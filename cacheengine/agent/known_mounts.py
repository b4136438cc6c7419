"""What is mounted of this node, when its own file cannot say: from the records beside the views, and from the kernel."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from cacheengine.agent.state import MountRecord, Node, save_mounts
from cacheengine.views import mountapi, superblocks, views
from cacheengine.views.mountapi import Mount
from cacheengine.views.views import View
from cacheengine.wire import MountReport, Owner

log = structlog.get_logger()


def recover(node: Node) -> None:
    """Learn which views the node has, and which of those that are gone from their folders are still read.

    While a view of ours is mounted that nothing tells of, node.unsure says so.
    """
    images = node.config.state_dir / "images"
    left = tuple(superblocks.list_leftovers(images))
    with node.space, node.lock:
        node.left = left
        if "mounts" in node.unsure:
            for view in views.list_views(images):
                if str(view.target) not in node.mounts:
                    node.mounts[str(view.target)] = _record_of(node, view)
                    log.info("mount_recovered", target=str(view.target), version=view.version)
            save_mounts(node)
        unknown = _unknown(node, images)
        if unknown:
            node.unsure["mounts"] = (
                f"{unknown[0].target} is mounted and no record tells what it shows: unmount it (umount)"
            )
        else:
            node.unsure.pop("mounts", None)


def _record_of(node: Node, view: View) -> MountRecord:
    """As the agent that mounted it had it. Which process of fetchfs it stands on is not known: then it is mounted anew."""
    local = {
        pack for pack, device in zip(view.packs, view.devices, strict=True) if not _is_remote(node, device)
    }
    remote = tuple(pack for pack in view.packs if pack not in local)
    look = view.attributes
    return MountRecord(
        report=MountReport(
            dataset=view.dataset,
            tag=view.tag,
            version=view.version,
            target=str(view.target),
            backend=view.backend,
        ),
        only_warm=view.rows.name.startswith("warm-"),
        owner=Owner(uid=look.uid, gid=look.gid, mode=look.mode),
        held=tuple(sorted(local)),
        remote=remote,
        served_by={node.config.fetchfs_of(pack): 0 for pack in remote},
    )


def _is_remote(node: Node, device: Path) -> bool:
    return device.is_relative_to(node.config.fetchfs)


def _unknown(node: Node, images: Path) -> list[Mount]:
    """Mounts of images of this node of which neither its views nor what is left of them tells."""
    mounted = mountapi.mounts()
    known = {str(mountapi.resolved(Path(target))) for target in node.mounts}
    covered = {mount.device for mount in mounted if str(mount.target) in known}
    return [
        mount
        for mount in mounted
        if mount.kind == "erofs"
        and mount.device not in covered
        and not node.left  # a bind of one that was unmounted
        and _image_of(mount).is_relative_to(mountapi.resolved(images))
    ]


def _image_of(mount: Mount) -> Path:
    """The file that an EROFS mount shows."""
    device = Path(mount.source)
    if device.parent == Path("/dev"):
        try:
            backing = Path(f"/sys/block/{device.name}/loop/backing_file").read_text().strip()
        except OSError:
            return device
        return Path(backing.removesuffix(" (deleted)"))
    return device


def leave(node: Node, record: MountRecord) -> Path | None:
    """Note, before a view is unmounted, who may go on to read it; the note, or None when nobody can."""
    images = node.config.state_dir / "images"
    view = views.find_view(Path(record.report.target), images)
    names = superblocks.living(view.superblocks) if view is not None else ()
    if not names:
        return None
    report = record.report
    return superblocks.save_leftover(
        images,
        superblocks.Leftover(
            report.dataset, report.tag, report.version, report.target, record.held, names, time.time_ns()
        ),
    )
