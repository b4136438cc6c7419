"""`outlap residency`: which versions are on which nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, CacheIdc

if TYPE_CHECKING:
    from cacheengine.wire import VersionReport


def residency(
    dataset: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this dataset.")] = None,
    affinity: Annotated[
        str | None,
        typer.Option(
            "--affinity",
            metavar="NAME@TAG",
            help="Print a Kubernetes nodeAffinity instead (YAML): nodes weighted by how much of the version they hold.",
        ),
    ] = None,
    required: Annotated[
        bool, typer.Option("--required", help="With --affinity: only nodes that hold all of it.")
    ] = False,
    by_label: Annotated[
        bool,
        typer.Option(
            "--by-label",
            help="With --affinity: by labels that control keeps current, not by today's node names.",
        ),
    ] = False,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """What every node really holds of each version, checked, and where it is mounted."""
    from lake.config import load_config
    from outlap.options import with_nodes

    if affinity is not None:
        _show_affinity(affinity, required, by_label, idc, as_json)
        return
    found = with_nodes(load_config())
    rows = [
        (node, version)
        for states in found.values()
        for node in states
        for version in node.versions
        if dataset in (None, version.dataset)
    ]
    if as_json:
        listed = [
            {
                "node": node.node,
                "draining": node.draining,
                **version.model_dump(),
                "mounts": [m.target for m in node.mounts if m.version == version.version],
            }
            for node, version in rows
        ]
        show.json_line(listed)
        return
    show.table(
        ("node", "version", "id", "state", "pinned", "files", "bytes", "mounted at"),
        [
            (
                node.node,
                f"{v.dataset}@{v.tag}",
                v.version[:12],
                v.state if not node.draining else f"{v.state}, draining",
                _pin(v),
                f"{v.files_resident:,} of {v.files_total:,}",
                f"{show.size(v.bytes_resident)} of {show.size(v.bytes_total)}",
                ", ".join(m.target for m in node.mounts if m.version == v.version),
            )
            for node, v in rows
        ],
    )


def _pin(report: VersionReport) -> str:
    if not report.pinned:
        return ""
    when = "" if report.pinned_ns is None else f", {show.moment(report.pinned_ns)}"
    return "pinned" if report.pinned_by is None else f"by {report.pinned_by}{when}"


def _show_affinity(version: str, required: bool, by_label: bool, idc: str | None, as_json: bool) -> None:
    import yaml

    from cacheengine import affinity
    from cacheengine.wire import WarmRequest
    from lake.config import load_config
    from lake.refs import parse
    from outlap.options import cache_control

    dataset, ref = parse(version)
    control = cache_control(load_config(), idc)
    found = control.estimate(WarmRequest(dataset=dataset, ref=ref))
    if by_label:
        made = affinity.by_label(found.version, required)
    else:
        held = affinity.shares(control.nodes(dataset), found.version, found.bytes)
        made = affinity.by_hostname(held, required)
    if as_json:
        show.json_line({"nodeAffinity": made})
    else:
        show.line(yaml.safe_dump({"nodeAffinity": made}, sort_keys=False).rstrip())
