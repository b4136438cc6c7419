"""The partitioned assets that carry a version through the loop, and their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow.sdk import Asset

from lake.errors import Refused

# One event per key and none coalesced, because the key names the version. Details stand in the event's extra.
dataset_published = Asset("dataset_published", uri="x-outlap://dataset_published")
dataset_synced = Asset("dataset_synced", uri="x-outlap://dataset_synced")
# Nothing of ours follows it: it says which run trained on which version, for `outlap lineage` and whoever else wants to know
dataset_trained = Asset("dataset_trained", uri="x-outlap://dataset_trained")

_PUBLISHED = re.compile(r"(?P<dataset>[^@|]+)@(?P<version>[0-9a-f]{64})")
_SYNCED = re.compile(_PUBLISHED.pattern + r"\|(?P<idc>[^@|]+)")


class Synced(NamedTuple):
    dataset: str
    version: str
    idc: str


def published_key(dataset: str, version: str) -> str:
    """`<dataset>@<version>`. Raises Refused when the parts cannot be told apart again."""
    key = f"{dataset}@{version}"
    if _PUBLISHED.fullmatch(key) is None:
        raise Refused(f"the partition key {key!r}", "it must be <dataset>@<version id of 64 hex digits>")
    return key


def synced_key(published: str, idc: str) -> str:
    """`<dataset>@<version>|<idc>`. Raises Refused like `published_key`."""
    key = f"{published}|{idc}"
    if _SYNCED.fullmatch(key) is None:
        raise Refused(
            f"the partition key {key!r}", "it must be <dataset>@<version id of 64 hex digits>|<idc>"
        )
    return key


def parse_synced(key: str) -> Synced:
    """Inverse of `synced_key`. Raises Refused."""
    match = _SYNCED.fullmatch(key)
    if match is None:
        raise Refused(
            f"the partition key {key!r}", "it must be <dataset>@<version id of 64 hex digits>|<idc>"
        )
    return Synced(match["dataset"], match["version"], match["idc"])


def announce_trained(planned: Mapping[str, Any], mounted: Mapping[str, Any], outlet_events: Any) -> str:
    """Give the event of this task its key and its details: which version a run trained on, in which IDC, on which nodes; the key."""
    key = synced_key(published_key(planned["dataset"], planned["version"]), planned["idc"])
    event = outlet_events[dataset_trained]
    names = ("dataset", "tag", "version", "idc", "files", "bytes")
    event.extra = {
        **{name: planned[name] for name in names if name in planned},
        "nodes": sorted({item["node"] for item in mounted["nodes"]}),
    }
    event.add_partitions(key)
    return key
