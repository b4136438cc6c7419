"""A version that a training run keeps from eviction, from before its warm until its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lake.config import load_config
from lake.errors import NotFound
from outlap_airflow.faults import told

log = logging.getLogger(__name__)


@told()
def pin(planned: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what nodes hold of the version until `unpin`; the warm pins the rest. `ours`: nobody had pinned it before."""
    from cacheengine.client import control_for
    from cacheengine.errors import CacheError
    from cacheengine.wire import PinRequest

    dataset, version = planned["dataset"], planned["version"]
    with control_for(load_config(), planned["idc"]) as control:
        holding = [
            node.node for node in control.nodes() if any(held.version == version for held in node.versions)
        ]
        if not holding:
            return {"ours": True}
        try:
            wanted = [
                item for node in holding for item in control.desired(node).versions if item.version == version
            ]
            ours = not any(item.pinned for item in wanted)
        except CacheError as error:
            log.warning(
                "who pinned %s@%s cannot be seen, so its pin stays after the run: %s",
                dataset,
                version[:12],
                error,
            )
            ours = False
        try:
            control.pin(PinRequest(dataset=dataset, ref=version, nodes=planned["nodes"]))
        except NotFound:
            log.info("nothing of %s@%s is to be kept yet", dataset, version[:12])
    return {"ours": ours}


@told()
def unpin(planned: Mapping[str, Any], pinned: Mapping[str, Any] | None) -> None:
    """Let go of what `pin` and the warm pinned, unless somebody had pinned it before."""
    from cacheengine.client import control_for
    from cacheengine.wire import PinRequest

    if pinned is None or not pinned["ours"]:
        return
    with control_for(load_config(), planned["idc"]) as control:
        try:
            control.unpin(
                PinRequest(dataset=planned["dataset"], ref=planned["version"], nodes=planned["nodes"])
            )
        except NotFound:
            log.info("%s@%s is pinned nowhere any more", planned["dataset"], planned["version"][:12])
