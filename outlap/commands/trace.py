"""`outlap trace`: one read of one file, and where its bytes came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlap import show
from outlap.commands.mount import Node
from outlap.options import AsJson


def trace(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file of a mounted version.")],
    node: Node = None,
    as_json: AsJson = False,
) -> None:
    """Read one file of a view and say where each part came from and what it cost: page cache, disk, fetchfs, peer or store."""
    from cacheengine.wire import TraceRequest
    from lake.config import load_config
    from outlap.options import agent_of, with_nodes

    config, asked = load_config(), path.absolute()
    if node is None:
        nodes = [one for states in with_nodes(config).values() for one in states]
        node = next((n.node for n in nodes for m in n.mounts if asked.is_relative_to(m.target)), None)
    name, agent = agent_of(config, node)
    found = agent.trace(TraceRequest(path=str(asked)))
    if as_json:
        show.json_line({"node": name, **found.model_dump()})
        return
    rows = [
        (part.source, show.size(part.bytes), "" if part.seconds is None else f"{part.seconds * 1e3:.1f} ms")
        for part in found.parts
    ]
    show.table(("from", "bytes", "fetched in"), rows)
    show.say(
        f"{show.size(found.size)} in {found.seconds * 1e3:.1f} ms, by {found.backend} on {name}: "
        f"{found.dataset}@{found.tag}, pack {found.pack[:12]} at {found.offset}"
    )
