"""Nodes of all IDCs: alive or silent, disks, quotas, hit rate; and which versions each holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from cacheengine.wire import NodeState, VersionReport
from lake.errors import NotFound
from outlap_airflow.pages import control
from outlap_airflow.pages.listing import Asking, Row, cut, matching, ordered
from outlap_airflow.pages.sources import Sources, told

ORDERS: dict[str, Any] = {
    "node": lambda row: (row["idc"], row["node"]),
    "state": lambda row: (row["state"], row["idc"], row["node"]),
    "role": lambda row: row["role"],
    "used": lambda row: row["used"],
    "used_part": lambda row: row["used_part"],
    "versions": lambda row: row["versions"],
    "pinned": lambda row: row["pinned"],
    "hit_part": lambda row: row["hit_part"],
    "fetch_bps": lambda row: row["fetch_bps"],
    "seen_ns": lambda row: row["seen_ns"],
}


def list_nodes(
    src: Sources, asking: Asking, idc: str = "", state: str = "", role: str = "", holds: str = ""
) -> dict[str, Any]:
    """One row a node. state: `alive`, `silent` or `disk trouble`; holds: a dataset, or `dataset@tag`, that it has files of."""
    dataset = holds.partition("@")[0]
    answers = control.nodes_of(src, dataset=dataset) if holds else control.brief_nodes_of(src)
    found = [(name, node) for name, answer in answers.items() for node in answer.value or ()]
    rows = [_row(name, node) for name, node in found if not holds or any(_holds(node, holds))]
    counts = Counter(row["state"] for row in rows)
    rows = [
        row
        for row in rows
        if idc in ("", row["idc"]) and state in ("", row["state"]) and role in ("", row["role"])
    ]
    rows = matching(rows, asking.search, ("node", "idc", "address", "labels"))
    everything = {
        "used": sum(row["used"] for row in rows),
        "quota": sum(row["quota"] for row in rows),
        "hit_part": _part(sum(row["hit_bytes"] for row in rows), sum(row["miss_bytes"] for row in rows)),
    }
    return {
        **cut(ordered(rows, asking, ORDERS), asking),
        "counts": dict(counts),
        "sum": everything,
        "idcs": src.controls(),
        "services": told(answers.items()),
    }


def show_node(src: Sources, idc: str, name: str) -> dict[str, Any]:
    """One node: its disks, the versions it holds, its mounts. Raises NotFound."""
    answer = control.nodes_of(src, [src.config.idc_named(idc).name])[idc]
    node = next((node for node in answer.value or () if node.node == name), None)
    if node is None:
        why = (
            "the control service knows none of that name" if answer.problem is None else answer.problem["why"]
        )
        raise NotFound(f"the node {name[:128]!r} of {idc}", why, "choose one of the list of nodes")
    return {
        **_row(idc, node),
        "dirs": [one.model_dump() for one in node.dirs],
        "holds": [_held(report) for report in node.versions],
        "mounts": [one.model_dump() for one in node.mounts],
        "services": told([(idc, answer)]),
    }


def list_residency(src: Sources, asking: Asking, idc: str = "") -> dict[str, Any]:
    """One row for each version and IDC: on how many nodes it is resident, on how many it is on its way or failed."""
    answers = control.nodes_of(src)
    summed: dict[tuple[str, str, str, str | None], Row] = {}
    for name, answer in answers.items():
        if idc not in ("", name):
            continue
        for node in answer.value or ():
            for report in node.versions:
                _add(summed, name, node, report)
    rows = matching(summed.values(), asking.search, ("dataset", "tag", "version", "idc"))
    orders: dict[str, Any] = {
        "dataset": lambda row: (row["dataset"], row["tag"], row["idc"]),
        "resident": lambda row: row["resident"],
        "underway": lambda row: row["underway"],
        "failed": lambda row: row["failed"],
        "mounted": lambda row: row["mounted"],
        "pinned": lambda row: row["pinned"],
        "bytes_total": lambda row: row["bytes_total"],
        "bytes_resident": lambda row: row["bytes_resident"],
    }
    return {
        **cut(ordered(rows, asking, orders), asking),
        "idcs": src.controls(),
        "services": told(answers.items()),
    }


def _add(
    summed: dict[tuple[str, str, str, str | None], Row], idc: str, node: NodeState, report: VersionReport
) -> None:
    row = summed.setdefault(
        (idc, report.dataset, report.version, report.list_id),
        {
            "idc": idc,
            "dataset": report.dataset,
            "tag": report.tag,
            "version": report.version,
            "list_id": report.list_id,
            "files_total": report.files_total,
            "bytes_total": report.bytes_total,
            "bytes_resident": 0,
            "resident": 0,
            "underway": 0,
            "failed": 0,
            "mounted": 0,
            "pinned": 0,
        },
    )
    kind = {"resident": "resident", "failed": "failed"}.get(report.state, "underway")
    row[kind] += 1
    row["bytes_resident"] += report.bytes_resident
    row["pinned"] += report.pinned
    row["mounted"] += any(mount.version == report.version for mount in node.mounts)


def _holds(node: NodeState, asked: str) -> Iterator[bool]:
    dataset, _, tag = asked.partition("@")
    for report in node.versions:
        is_named = not tag or report.tag == tag or (len(tag) >= 6 and report.version.startswith(tag))
        yield report.dataset == dataset and is_named


def _part(one: int, other: int) -> float | None:
    return one / (one + other) if one + other else None


def _row(idc: str, node: NodeState) -> Row:
    used, quota = sum(one.used for one in node.dirs), sum(one.quota for one in node.dirs)
    bad = [one for one in node.dirs if one.state != "normal"]
    return {
        "idc": idc,
        "node": node.node,
        "address": node.address,
        "role": node.role,
        "labels": ", ".join(f"{name}={value}" for name, value in sorted(node.labels.items())),
        "state": "silent" if not node.alive else "disk trouble" if bad else "alive",
        "seen_ns": node.seen_ns,
        "used": used,
        "quota": quota,
        "used_part": used / quota if quota else None,
        "disks": len(node.dirs),
        "disks_bad": len(bad),
        "media": sorted({one.medium for one in node.dirs}),
        "versions": node.versions_total,
        "pinned": node.pinned_total,
        "draining": node.draining,
        "mounts": len(node.mounts),
        "hit_bytes": node.hit_bytes,
        "miss_bytes": node.miss_bytes,
        "hit_part": _part(node.hit_bytes, node.miss_bytes),
        "store_bytes": node.store_bytes,
        "store_requests": node.store_requests,
        "fetch_bps": node.fetch_bps,
    }


def _held(report: VersionReport) -> Row:
    return {
        **report.model_dump(exclude={"failures"}),
        "failures": [one.model_dump() for one in report.failures],
    }
