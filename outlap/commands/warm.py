"""`outlap warm`: make a version resident on nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, CacheIdc, Nodes, Version, byte_count

if TYPE_CHECKING:
    from cacheengine.wire import Estimate

FilesFrom = Annotated[
    Path | None,
    typer.Option(
        "--files-from", metavar="LIST", exists=True, dir_okay=False, help="Only these paths, one a line."
    ),
]


def warm(
    version: Version,
    nodes: Nodes = "all",
    files_from: FilesFrom = None,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it from eviction until `outlap unpin`.")] = False,
    priority: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="Nodes warm higher ones first.")
    ] = 0,
    bandwidth: Annotated[
        int | None,
        typer.Option(
            "--bandwidth",
            metavar="SIZE",
            parser=byte_count,
            help="The most that each node fetches a second, such as 100MB.",
        ),
    ] = None,
    spread: Annotated[
        int | None,
        typer.Option("--spread", metavar="COPIES", min=1, max=16, help="Each pack on so many of the nodes."),
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say what it would cost.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when every byte is there and checked.")
    ] = True,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Make a version resident on nodes, every byte checked. Done means N of N files; a failure lists the paths."""
    from cacheengine.wire import WarmRequest
    from lake.config import load_config
    from lake.refs import parse
    from outlap.jobs import follow, read_list, show_job
    from outlap.options import cache_control, job_exit_code

    control = cache_control(load_config(), idc)
    dataset, ref = parse(version)
    request = WarmRequest(
        dataset=dataset,
        ref=ref,
        files=read_list(files_from),
        nodes=nodes,
        pin=pin,
        priority=priority,
        bandwidth_bps=bandwidth,
        placement="all" if spread is None else "spread",
        copies=spread or 1,
    )
    if estimate:
        _show_estimate(control.estimate(request), as_json)
        return
    job = control.warm(request)
    if wait:
        job = follow(control, job)
    show_job(job, as_json)
    raise typer.Exit(job_exit_code(job) if wait else 0)


# what an estimate stands on, where that is little
BASIS = {
    "several": "",
    "one": "; from one fetch",
    "other nodes": "; from other nodes' fetches",
    "cap": "; at the cap",
    "nothing": "",
}


def _show_estimate(found: Estimate, as_json: bool) -> None:
    if as_json:
        show.json_line(found.model_dump())
    else:
        rows = [
            (
                n.node,
                f"{n.files_missing:,}",
                show.size(n.bytes_missing),
                show.size(n.bytes_free),
                "fits" if n.fits else "does not fit",
                _time(n.seconds, n.seconds_low, n.seconds_high) + BASIS[n.basis],
                ", ".join(n.evicts),
            )
            for n in found.nodes
        ]
        show.table(("node", "files missing", "bytes missing", "free", "", "takes", "would evict"), rows)
        show.line(
            f"{found.files:,} files, {show.size(found.bytes)}; "
            f"takes {_time(found.seconds, found.seconds_low, found.seconds_high)}"
        )
    raise typer.Exit(0 if all(node.fits for node in found.nodes) else 1)


def _time(seconds: float | None, low: float | None, high: float | None) -> str:
    if seconds is None:
        return "not known: no node has measured its rate"
    spread = f" ({show.seconds(low)} to {show.seconds(high)})" if low is not None and high is not None else ""
    return f"{show.seconds(seconds)}{spread if low != high else ''}"
