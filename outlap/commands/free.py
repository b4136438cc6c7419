"""`outlap free`: release what a version holds on nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from outlap.commands.warm import FilesFrom
from outlap.options import AsJson, CacheIdc, Nodes, Version


def free(
    version: Version,
    nodes: Nodes = "all",
    files_from: FilesFrom = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is released.")] = True,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Release a version on nodes. Mounts of it stay readable: what they miss is fetched as it is read."""
    from cacheengine.wire import FreeRequest
    from lake.config import load_config
    from lake.refs import parse
    from outlap.jobs import follow, read_list, show_job
    from outlap.options import cache_control, job_exit_code

    control = cache_control(load_config(), idc)
    dataset, ref = parse(version)
    job = control.free(FreeRequest(dataset=dataset, ref=ref, files=read_list(files_from), nodes=nodes))
    if wait:
        job = follow(control, job)
    show_job(job, as_json)
    raise typer.Exit(job_exit_code(job) if wait else 0)
