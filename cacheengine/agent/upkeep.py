"""Disks of a node: probed, and tidied when one comes back."""

from __future__ import annotations

import structlog

from cacheengine import metrics
from cacheengine.agent.state import Node, leased_packs, tell_set_aside
from cacheengine.packs import disks, lifetimes, packcache, staging
from cacheengine.packs import have as haves
from lake.errors import Explained

log = structlog.get_logger()


def look_at_disks(node: Node) -> None:
    """Probe each cache directory. One that went down: its versions are looked at again, and made elsewhere. One that came back:
    packs that were made elsewhere meanwhile are kept there alone."""
    for directory in node.cache.dirs:
        before = disks.disk_of(directory.path).state
        now = disks.probe(directory.path)
        if now != before and "down" in (now, before):
            with node.lock:
                for status in node.statuses.values():
                    if status.state in ("resident", "failed") and not status.evicted:
                        status.state, status.retry_ns, status.tries = "waiting", 0, 0
            node.wake.set()
        if now == "normal" and before != "normal":
            drop_doubles(node)
        if now != "down":
            lifetimes.sweep_retired(directory.path)
        if now == "normal":
            staging.sweep(directory)  # what a killed process of fetchfs left
            node.works(f"disk {directory.path}")
        else:
            cause = disks.disk_of(directory.path).cause
            node.failed(
                f"disk {directory.path}", Explained(f"the disk of {directory.path}", f"it is {now}: {cause}")
            )


def drop_doubles(node: Node) -> int:
    """Remove all copies of a pack but the one that is read; how many went. Those that views stand on stay."""
    dropped = 0
    if node.unsure:
        return 0
    with node.space:
        leased = leased_packs(node)
        for directory in node.cache.dirs:
            if not disks.is_up(directory.path):
                continue
            for pack in packcache.packs_on_disk(directory):
                read = packcache.find_pack(node.cache, pack)
                if pack in leased or read is None or read == directory:
                    continue
                freed = packcache.keep_only(directory, pack, haves.NOTHING)
                metrics.evicted_bytes.labels("double").inc(freed)
                dropped += freed > 0
    return dropped


def run(node: Node) -> None:
    """Probe until the node ends."""
    while not node.ending.wait(disks.PROBE_EVERY_S):
        try:
            tell_set_aside(node)
            look_at_disks(node)
            node.works("disks")
        except (Explained, OSError) as error:
            node.failed("disks", error)
        except Exception as error:
            log.exception("unexpected", part="disks")
            node.failed("disks", error)
