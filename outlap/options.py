"""Options and look-ups that several commands share, so that they are spelled and described once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outlap.errors import NotHere

if TYPE_CHECKING:
    from cacheengine.client import AgentClient, Control
    from cacheengine.wire import Job, NodeState
    from lake.config import Config

Version = Annotated[
    str, typer.Argument(metavar="NAME@TAG", help="Dataset and tag, `latest`, or the start of a version id.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
Idc = Annotated[
    str | None, typer.Option("--idc", metavar="IDC", help="The IDC to ask; default: the one of this machine.")
]
RateHz = Annotated[
    float | None,
    typer.Option("--rate-hz", min=0.001, max=1000, help="Frames per second; default: key frames."),
]
CacheIdc = Annotated[
    str | None,
    typer.Option("--idc", metavar="IDC", help="The IDC of the nodes; default: the one that has nodes."),
]
Nodes = Annotated[
    str,
    typer.Option(
        "--nodes", metavar="SELECTOR", help="`all`, names with commas, `role=gpu`, or `label.KEY=VALUE`."
    ),
]


def byte_count(text: str) -> int:
    """Read a size as every settings file has it: bytes, or with a unit such as `100KB` or `1.5GiB`.

    Raises:
        typer.BadParameter: it is no size, or not above 0.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        size = int(TypeAdapter(ByteSize).validate_python(text.strip()))
    except ValidationError as error:
        raise typer.BadParameter(
            f"{text!r} is no size; write bytes, or a unit as in 100KB or 1.5GiB"
        ) from error
    if size <= 0:
        raise typer.BadParameter(f"{text!r} is not above 0")
    return size


def with_nodes(config: Config) -> dict[str, list[NodeState]]:
    """IDC → its nodes, for every IDC with a control service."""
    from cacheengine.client import control_for

    return {
        name: list(control_for(config, name).nodes())
        for name, idc in sorted(config.idcs.items())
        if idc.control is not None
    }


def cache_idc(config: Config, asked: str | None) -> str:
    """The IDC whose nodes a command means. Raises NotHere when that is not clear."""
    if asked is not None:
        return config.idc_named(asked).name
    found = [name for name, nodes in with_nodes(config).items() if nodes]
    if config.idc in found:
        return config.idc
    if len(found) == 1:
        return found[0]
    if found:
        raise NotHere("which IDC", f"nodes are in {', '.join(found)}", "name one with --idc")
    raise NotHere("an IDC with nodes", "no control service knows a node", "start one (`outlap up`)")


def cache_control(config: Config, asked: str | None) -> Control:
    from cacheengine.client import control_for

    return control_for(config, cache_idc(config, asked))


def agent_of(config: Config, asked_node: str | None, asked_idc: str | None = None) -> tuple[str, AgentClient]:
    """(name, client) of a node's agent: the named one, else the first that listens on this machine."""
    from cacheengine.client import AgentClient
    from lake.config import read_secret

    candidates = [
        (idc, node)
        for idc, nodes in with_nodes(config).items()
        for node in sorted(nodes, key=lambda one: one.node)
        if asked_idc in (None, idc)
    ]
    known = ", ".join(node.node for _, node in candidates) or "none"
    if asked_node is not None:
        chosen = [pair for pair in candidates if pair[1].node == asked_node]
    else:
        chosen = [
            pair
            for pair in candidates
            if pair[1].address.startswith(("http://127.0.0.1:", "http://localhost:"))
        ]
    if not chosen:
        what = f"the node {asked_node!r}" if asked_node else "a node on this machine"
        raise NotHere(what, f"control knows: {known}", "name one with --node; `outlap nodes` lists them")
    idc, node = chosen[0]
    token = config.idc_named(idc).token
    if token is None:
        raise NotHere(
            f"the token for {idc}", "the settings name none", f"set `token` in [idc.{idc}] of outlap.toml"
        )
    return node.node, AgentClient(node.address, read_secret(token))


def job_exit_code(job: Job) -> int:
    """0 done, 3 when a part of the files is there, else 1."""
    if job.state == "done":
        return 0
    return 3 if 0 < job.files_done < job.files_total else 1
