"""`outlap nodes drain` and `undrain`: let a node hand over what it shares, before it goes."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, CacheIdc

Name = Annotated[str, typer.Argument(metavar="NODE", help="The node, as `outlap nodes` names it.")]


def drain(
    node: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Return when others hold what it held.")] = False,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Let a node hand over its shares of spread versions. It serves them until others hold them, and gets no new ones."""
    from lake.config import load_config
    from outlap.options import cache_control

    with cache_control(load_config(), idc) as control:
        control.drain(node)
        while True:
            group = control.members()
            handed_over = group.settled == group.generation
            if handed_over or not wait:
                break
            time.sleep(1.0)
    if as_json:
        show.json_line({"node": node, "draining": True, "handed_over": handed_over})
    else:
        done = (
            "others hold its shares: it may go"
            if handed_over
            else "it serves its shares until others hold them"
        )
        show.line(f"{node} is drained; {done}")


def undrain(node: Name, idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """Let a node have shares again."""
    from lake.config import load_config
    from outlap.options import cache_control

    with cache_control(load_config(), idc) as control:
        control.undrain(node)
    if as_json:
        show.json_line({"node": node, "draining": False})
    else:
        show.line(f"{node} has shares again")
