"""`outlap mount` and `outlap umount`: a version as ordinary files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Version


class Backend(StrEnum):
    auto = "auto"
    kernel = "kernel"
    loop = "loop"
    fuse = "fuse"


MOST_ID = (1 << 32) - 2

Node = Annotated[
    str | None,
    typer.Option("--node", metavar="NAME", help="The node that mounts; default: the first on this machine."),
]


def _octal(text: int | str) -> int:
    try:
        mode = text if isinstance(text, int) else int(text, 8)
    except ValueError as error:
        raise typer.BadParameter("permissions are octal, such as 440") from error
    if not 0 <= mode <= 0o777:
        raise typer.BadParameter("permissions are 0 to 777")
    return mode


def mount(
    version: Version,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where; default: below the node's own mounts.")
    ] = None,
    node: Node = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="How; `auto` takes the best that works here.")
    ] = Backend.auto,
    only_warm: Annotated[
        bool, typer.Option("--only-warm", help="Show only files that are resident now.")
    ] = False,
    uid: Annotated[int, typer.Option("--uid", min=0, max=MOST_ID, help="Owner of the tree.")] = 0,
    gid: Annotated[int, typer.Option("--gid", min=0, max=MOST_ID, help="Group of the tree.")] = 0,
    mode: Annotated[
        int,
        typer.Option(
            "--mode",
            parser=_octal,
            metavar="OCTAL",
            help="Permissions of files [default: 444].",
            show_default=False,
        ),
    ] = 0o444,
    as_json: AsJson = False,
) -> None:
    """Mount a version on a node as ordinary read-only files. What is not resident is fetched as it is read."""
    from cacheengine.wire import MountRequest, Owner
    from lake.config import load_config
    from lake.refs import parse
    from outlap.options import agent_of

    dataset, ref = parse(version)
    name, agent = agent_of(load_config(), node)
    target = str(folder.absolute()) if folder else None
    done = agent.mount(
        MountRequest(
            dataset=dataset,
            ref=ref,
            target=target,
            backend=backend.value,
            only_warm=only_warm,
            owner=Owner(uid=uid, gid=gid, mode=mode),
        )
    )
    if as_json:
        show.json_line({"node": name, **done.model_dump()})
        return
    show.line(done.target)
    show.say(
        f"{done.dataset}@{done.tag} on {name}: {done.files:,} files, {show.size(done.bytes)}, by {done.backend} "
        f"({done.why}); {done.packs_local} packs local, {done.packs_remote} fetched as they are read"
    )


def umount(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The mounted folder.")],
    node: Node = None,
    as_json: AsJson = False,
) -> None:
    """End a mount that `outlap mount` made."""
    from cacheengine.wire import UmountRequest
    from lake.config import load_config
    from outlap.errors import NotHere
    from outlap.options import agent_of, with_nodes

    config = load_config()
    target = str(folder.absolute())
    if node is None:
        mounted = {m.target: n.node for nodes in with_nodes(config).values() for n in nodes for m in n.mounts}
        node = mounted.get(target)
    name, agent = agent_of(config, node)
    if target not in {one.target for one in agent.mounts()}:
        raise NotHere(
            f"the mount {target}", f"the node {name} has none there", "`outlap residency` lists them"
        )
    done = agent.umount(UmountRequest(target=target))
    if as_json:
        show.json_line({"node": name, "target": target, "mounted": False, "still_read": done.still_read})
        return
    show.line(f"unmounted {target}")
    if done.still_read:
        show.say(
            "it is still read in another mount namespace (a container that has it): what it reads stays right, "
            "and on the disk, until that ends"
        )
