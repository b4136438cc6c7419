"""Residency as labels of Kubernetes nodes, `outlap.dev/<version>: <percent>`, so that the scheduler knows where bytes are.

Off unless the settings turn it on. Only what changed is patched; percents below 100 go in steps, so that a warm is a few patches and
not a stream of them. A node of the group is the Kubernetes node of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cacheengine import affinity
from cacheengine.control.settings import ControlSettings
from cacheengine.wire import NodeState
from lake.errors import Explained, Refused

STEP = 5  # percent
MOST_LABELS = 64  # of one node: those versions of which it holds most
PAGE = 500
LIST_EVERY = 40  # rounds: nodes that came to the cluster, labels that someone else changed


@dataclass
class Cluster:
    """known: node → our labels on it, None before they were listed. api: a CoreV1Api."""

    api: Any
    known: dict[str, dict[str, str]] | None = None
    rounds: int = 0
    totals: dict[str, int] = field(default_factory=dict)


def connect(settings: ControlSettings) -> Cluster:
    """The API that the settings name, or that of the cluster we run in. Raises Refused."""
    from kubernetes import client, config

    if settings.kubernetes_url is None:
        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise Refused(
                "node labels",
                f"this is no pod of a cluster: {error}",
                "set OUTLAP_CONTROL_KUBERNETES_URL, or OUTLAP_CONTROL_KUBERNETES_LABELS=false",
            ) from error
        return Cluster(client.CoreV1Api())
    chosen = client.Configuration(host=settings.kubernetes_url)
    if settings.kubernetes_token_file is not None:
        path = settings.kubernetes_token_file

        def token(configuration: Any) -> None:
            # read each time: the cluster replaces it
            configuration.api_key["authorization"] = f"Bearer {_token(path)}"

        chosen.refresh_api_key_hook = token
        token(chosen)
    if settings.kubernetes_ca_file is not None:
        chosen.ssl_ca_cert = str(settings.kubernetes_ca_file)
    return Cluster(client.CoreV1Api(client.ApiClient(chosen)))


def _token(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def wanted(node: NodeState, total_of: Callable[[str], int]) -> dict[str, str]:
    """The labels that say what a node holds. total_of(version): its bytes."""
    versions = {report.version for report in node.versions if report.list_id is None}
    held = {}
    for version in versions:
        share = affinity.shares([node], version, total_of(version)).get(node.node, 0.0)
        percent = 100 if share >= 1 else int(share * 100) // STEP * STEP
        if percent > 0:
            held[version] = percent
    most = sorted(held, key=lambda version: (-held[version], version))[:MOST_LABELS]
    return {affinity.label_of(version): str(held[version]) for version in most}


def round_of(cluster: Cluster, nodes: Mapping[str, NodeState], total_of: Callable[[str], int]) -> int:
    """Bring labels up to date; how many nodes were patched. Raises Explained, when all that could be was, for what could not."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    problems = []
    patched = 0
    try:
        if cluster.known is None or cluster.rounds % LIST_EVERY == 0:
            cluster.known = _listed(cluster.api)
        cluster.rounds += 1
        for name, labels in cluster.known.items():
            now = wanted(nodes[name], total_of) if name in nodes else {}
            change: dict[str, str | None] = {
                key: value for key, value in now.items() if labels.get(key) != value
            }
            change |= dict.fromkeys(labels.keys() - now.keys())
            if not change:
                continue
            try:
                cluster.api.patch_node(
                    name,
                    {"metadata": {"labels": change}},
                    _content_type="application/merge-patch+json",
                    _request_timeout=30,
                )
            except ApiException as error:
                problems.append(f"{name}: {error.status} {error.reason}")
                continue
            cluster.known[name] = now
            patched += 1
    except (ApiException, HTTPError) as error:
        raise _failed(type(error).__name__) from error
    if problems:
        cluster.rounds = 0  # list again: a node may have left the cluster
        raise _failed("; ".join(problems[:5]))
    return patched


def _failed(why: str) -> Explained:
    return Explained(
        "labels of Kubernetes nodes", why, "see the role of the service account (deploy/README.md)"
    )


def _listed(api: Any) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    token = None
    while True:
        page = api.list_node(limit=PAGE, _continue=token, _request_timeout=30)
        for node in page.items:
            labels = node.metadata.labels or {}
            found[node.metadata.name] = {
                key: value for key, value in labels.items() if key.startswith(affinity.PREFIX)
            }
        token = page.metadata._continue
        if not token:
            return found
