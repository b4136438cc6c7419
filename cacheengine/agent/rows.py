"""Rows of the versions that a node desires: known before anything is taken away, from the node itself where it has them.

Bytes of a desired version whose rows are not known look like bytes that nobody wants. So nothing is released or evicted until they are
(`letgo.keeps` refuses), and this module gets them: from rows of the same version that are saved here, else from the store.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from cacheengine import wanted as wants
from cacheengine.agent.state import Lost, Node, saved_wants, steady_ns
from cacheengine.errors import CacheError
from cacheengine.packs.eviction import Key
from cacheengine.wanted import Want
from cacheengine.wire import DesiredVersion
from lake.errors import Corrupt, Explained, NotFound, Refused

AGAIN_NS = 2 * 10**9

log = structlog.get_logger()


class RowsUnknown(CacheError):
    """Rows of a desired version are not known here, so what it wants is not, and nothing may be taken away."""


def want_of(node: Node, key: Key) -> Want:
    """The version's rows on this node.

    They are made of other rows of the version that are saved here, or else read from the store. Raises Explained.
    """
    saved = wants.load_want(node.config.views, key.version, key.list_id)
    if saved is not None:
        return saved
    if key.list_id is None:
        return wants.save_want(node.store(), node.config.views, key.version)
    with node.lock:
        desired = node.desired.get(key)
    paths = node.file_list(desired) if desired is not None else None
    return want_of_paths(node, key, paths)


def want_of_paths(node: Node, key: Key, paths: list[str] | None) -> Want:
    """Rows of a file list.

    Args:
        node: this node.
        key: the version, and the list.
        paths: what the list names; None where control does not have it.

    Raises:
        Explained: control or the store does not give what is missing.
    """
    saved = wants.load_want(node.config.views, key.version, key.list_id)
    if saved is not None:
        return saved
    if paths is None or key.list_id is None:
        raise Explained(f"the file list {key.list_id}", "control gave none", "warm the version again")
    for other in wants.saved_of_version(node.config.views, key.version):
        made = wants.narrow_want(other, key.list_id, paths)
        if made is not None:
            return made
    return wants.save_want(node.store(), node.config.views, key.version, key.list_id, paths)


def unknown(node: Node) -> dict[Key, DesiredVersion]:
    """Desired versions that may want bytes, and whose rows are not saved here."""
    known = saved_wants(node)
    with node.lock:
        return {
            key: version
            for key, version in node.desired.items()
            if key not in known and not _given_up(node, key)
        }


def _given_up(node: Node, key: Key) -> bool:
    status = node.statuses.get(key)
    return status is not None and status.given_up


def learn(node: Node) -> dict[Key, Lost]:
    """Get the rows that are not known; those that still are not, and why. Never raises for one of them; hold no lock."""
    found: dict[Key, Lost] = {}
    for key in unknown(node):
        with node.lock:
            before = node.lost_rows.get(key)
        if before is not None and before.retry_ns > steady_ns():
            found[key] = before
            continue
        try:
            want_of(node, key)
        except (Explained, OSError) as error:
            # of a version that its store denies, or whose rows are no rows, nothing can be made resident
            for_good = isinstance(error, NotFound | Corrupt | Refused)
            found[key] = Lost(str(error), for_good, steady_ns() + AGAIN_NS)
            if before is None or before.cause != str(error):
                log.warning("rows_unknown", dataset=key.dataset, version=key.version, cause=str(error))
    with node.lock:
        node.lost_rows = dict(found)
    return found


def refuse_unknown(node: Node, known: Mapping[Key, Want]) -> None:
    """Raises RowsUnknown when a desired version may want bytes that nobody here knows of."""
    with node.lock:
        for key, version in node.desired.items():
            lost = node.lost_rows.get(key)
            if key in known or _given_up(node, key) or (lost is not None and lost.for_good):
                continue
            why = "they are not here yet" if lost is None else lost.cause
            raise RowsUnknown(
                f"the rows of {key.dataset}@{version.tag}",
                f"what this version wants is not known on the node, so nothing is taken away: {why}",
                "it is tried again by itself",
            )
