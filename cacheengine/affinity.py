"""Where pods run best: Kubernetes node affinity by how much of a version each node holds.

Two ways to name nodes: by `kubernetes.io/hostname`, as residency is now; or by labels `outlap.dev/<version>: <percent>`, which the
control service keeps current where it is told to (cacheengine/control/nodelabels.py). Both are the JSON of a `nodeAffinity`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cacheengine.wire import NodeState
from lake.errors import NotFound

HOSTNAME = "kubernetes.io/hostname"
PREFIX = "outlap.dev/"
VERSION_DIGITS = 12
WHOLE = "100"
# a node that passes a step gets its weight as well; together 100, so that weights grow with the share
STEPS = ((0, 20), (25, 20), (50, 20), (75, 20), (99, 20))


def label_of(version: str) -> str:
    """The key of a version's label on Kubernetes nodes."""
    return f"{PREFIX}{version[:VERSION_DIGITS]}"


def shares(nodes: Iterable[NodeState], version: str, total: int) -> dict[str, float]:
    """Node → which part of a version's bytes it holds, 0 < share ≤ 1. 1 is said only of N of N files, checked.

    total: bytes of the version. Nodes that are dead or have no processor to train on (role `cache`) are left out.
    """
    found: dict[str, float] = {}
    for node in nodes:
        for report in node.versions:
            if report.version != version or report.list_id is not None or report.state == "freeing":
                continue
            if not node.alive or node.role == "cache" or not report.bytes_resident:
                continue
            whole = report.state == "resident" and report.group is None
            whole = whole and report.files_resident == report.files_total
            part = 1.0 if whole else min(0.99, report.bytes_resident / max(1, total))
            found[node.node] = max(part, found.get(node.node, 0.0))
    return found


def on_nodes(names: Sequence[str], preferred: str | None = None) -> dict[str, Any]:
    """A pod may run on these nodes only; on `preferred` rather than on the others, when it is one of them."""
    required = {"nodeSelectorTerms": [_term(HOSTNAME, "In", sorted(names))]}
    found: dict[str, Any] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    if preferred is not None and preferred in names:
        wish = {"weight": 100, "preference": _term(HOSTNAME, "In", [preferred])}
        found["preferredDuringSchedulingIgnoredDuringExecution"] = [wish]
    return found


def by_hostname(held: Mapping[str, float], required: bool = False) -> dict[str, Any]:
    """Nodes by name, as they are now: weight 1 to 100 by share; required: only those that hold all of it.

    held: what `shares` gives. Raises NotFound when no node holds any of it (all of it, where that is required).
    """
    whole = [node for node, share in held.items() if share >= 1]
    if not held or (required and not whole):
        what = "all" if required else "any"
        raise NotFound("a node to run on", f"no live node that trains holds {what} of it", "warm it first")
    if required:
        return on_nodes(whole)
    by_weight: dict[int, list[str]] = {}
    for node, share in held.items():
        by_weight.setdefault(max(1, min(100, round(share * 100))), []).append(node)
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "preference": _term(HOSTNAME, "In", sorted(nodes))}
            for weight, nodes in sorted(by_weight.items(), reverse=True)
        ]
    }


def by_label(version: str, required: bool = False) -> dict[str, Any]:
    """Nodes by their labels at the time the pod is scheduled, whatever is known now."""
    key = label_of(version)
    if required:
        selector = {"nodeSelectorTerms": [_term(key, "In", [WHOLE])]}
        return {"requiredDuringSchedulingIgnoredDuringExecution": selector}
    return {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": weight, "preference": _term(key, "Gt", [str(above)])} for above, weight in STEPS
        ]
    }


def _term(key: str, operator: str, values: list[str]) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}
