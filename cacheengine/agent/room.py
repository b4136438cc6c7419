"""Room in the cache directories while readers fill them, and after a kill."""

from __future__ import annotations

from cacheengine.agent import rows
from cacheengine.agent.letgo import changed, eviction_steps, keeps, trim
from cacheengine.agent.state import Node, steady_ns
from cacheengine.packs import disks, lifetimes, packcache, staging
from cacheengine.packs import have as haves


def keep_below_watermarks(node: Node) -> None:
    """Above the high mark of a directory, or when a reader waits for room, take bytes beyond what is desired, oldest first, down to
    the low mark."""
    asked = wanted_room(node)
    for directory in node.cache.dirs:
        if not disks.is_up(directory.path):
            continue
        used = packcache.used(directory)
        if used <= directory.quota * directory.high and packcache.room(directory, used) >= asked:
            continue
        rows.learn(node)  # what is desired is known before anything goes
        over = used - int(directory.quota * directory.low) + asked
        with node.space:
            on_disk, keep = packcache.packs_on_disk(directory), keeps(node)
            for step in eviction_steps(node, None):
                if over <= 0 or step.kind == "version":
                    break
                if step.pack in on_disk:
                    over -= trim(node, step.pack, keep, "watermark")


def drop_old(node: Node) -> int:
    """Take bytes beyond what is desired of packs whose record changed `ttl_s` ago or earlier; bytes freed."""
    if node.config.ttl_s is None:
        return 0
    rows.learn(node)
    freed, before = 0, steady_ns() - int(node.config.ttl_s * 1e9)
    with node.space:
        keep, at = keeps(node), changed(node)
        for step in eviction_steps(node, None):
            if step.kind != "trim" or at.get(step.pack, before) >= before:
                continue
            known = packcache.load_have(node.cache, step.pack)
            if len(haves.common(known, keep(step.pack))) < len(known) or not len(known):
                freed += trim(node, step.pack, keep, "ttl")
    return freed


def wanted_room(node: Node) -> int:
    """Bytes that readers beside the agent wait for just now; asking ends with this look."""
    asked = 0
    for path in (node.config.state_dir / "counts").glob("*.room"):
        try:
            asked += int(path.read_text())
        except ValueError:
            continue  # it is being written: the next look has it
        path.unlink(missing_ok=True)
    return asked


def tidy(node: Node) -> None:
    """At start: what a killed agent reserved, staged and did not fill goes back, and lists of members of packs that are gone."""
    with node.space:
        for directory in node.cache.dirs:
            if not disks.is_up(directory.path):
                continue
            staging.sweep(directory)
            lifetimes.sweep_retired(directory.path)
            packcache.drop_half_made(directory)
            for pack in packcache.packs_on_disk(directory):
                packcache.drop_unfilled(directory, pack)
        for path in (node.config.state_dir / "members").glob("*.parquet"):
            if packcache.find_pack(node.cache, path.stem) is None:
                path.unlink(missing_ok=True)
