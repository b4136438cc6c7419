"""`outlap free`: release what a version holds on nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.commands.warm import FilesFrom
from outlap.options import AsJson, CacheIdc, Nodes, Version

if TYPE_CHECKING:
    from cacheengine.client import Control

POLICIES = ("after-training", "older-than", "pressure", "none")
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="Free versions of the dataset NAME by themselves from now on: `after-training` (its last mount ended), `older-than` "
        "(with --days), `pressure` (when a node's cache fills up); `none` ends it.",
    ),
]


def free(
    version: Version,
    nodes: Nodes = "all",
    files_from: FilesFrom = None,
    policy: Policy = None,
    days: Annotated[
        float | None,
        typer.Option("--days", min=0, help="With `--policy older-than`: not warmed or mounted for so long."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is released.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Also where it is pinned; the pin goes too.")
    ] = False,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Release a version on nodes, or say when versions of a dataset are released. Mounts stay readable: what they miss is fetched."""
    from cacheengine.wire import FreeRequest
    from lake.config import load_config
    from lake.refs import parse
    from outlap.jobs import follow, read_list, show_job
    from outlap.options import cache_control, job_exit_code

    control = cache_control(load_config(), idc)
    dataset, ref = parse(version)
    if policy is not None:
        _keep_policy(control, dataset, policy, days, as_json)
        return
    job = control.free(
        FreeRequest(dataset=dataset, ref=ref, files=read_list(files_from), nodes=nodes, force=force)
    )
    if wait:
        job = follow(control, job)
    show_job(job, as_json)
    raise typer.Exit(job_exit_code(job) if wait else 0)


def _keep_policy(control: Control, dataset: str, policy: str, days: float | None, as_json: bool) -> None:
    from cacheengine.wire import SettingRequest

    if policy not in POLICIES or (days is not None) != (policy == "older-than"):
        raise typer.BadParameter(
            f"it is one of {', '.join(POLICIES)}; --days goes with older-than, and must be given there"
        )
    value: dict[str, object] | None = None if policy == "none" else {"policy": policy}
    if value is not None and days is not None:
        value["days"] = days
    change = control.change_setting(SettingRequest(key=f"free.{dataset}", value=value))
    if as_json:
        show.json_line(change.model_dump())
    else:
        show.line(f"{dataset}: {policy}; {change.says}: {', '.join(change.nodes) or 'none holds any now'}")
