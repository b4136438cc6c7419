"""`outlap pin` and `outlap unpin`: keep a version from eviction."""

from __future__ import annotations

from outlap import show
from outlap.options import AsJson, CacheIdc, Nodes, Version


def pin(version: Version, nodes: Nodes = "all", idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """Keep a version's bytes on nodes from eviction until `outlap unpin`."""
    _ask("pin", version, nodes, idc, as_json)


def unpin(version: Version, nodes: Nodes = "all", idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """Let a pinned version be evicted again when room is needed."""
    _ask("unpin", version, nodes, idc, as_json)


def _ask(verb: str, version: str, nodes: str, idc: str | None, as_json: bool) -> None:
    from cacheengine.wire import PinRequest
    from lake.config import load_config
    from lake.refs import parse
    from outlap.options import cache_control

    dataset, ref = parse(version)
    control = cache_control(load_config(), idc)
    request = PinRequest(dataset=dataset, ref=ref, nodes=nodes)
    control.pin(request) if verb == "pin" else control.unpin(request)
    if as_json:
        show.json_line({"dataset": dataset, "ref": ref, "nodes": nodes, "pinned": verb == "pin"})
    else:
        show.line(f"{version} is {verb}ned on {nodes}")
