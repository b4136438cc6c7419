"""Fields of the trigger forms that several DAGs share."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from outlap_airflow.settings import DEFAULT_QUERY

# As lake.names.DATASET; the lake checks again
DATASET_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,99}$"


def dataset(required: bool = True) -> Any:
    """`required`: False where an event names the dataset and the form is the second way in."""
    note = "" if required else " Leave it empty only in runs that an event starts."
    return Param(
        "frames-720p" if required else None,
        type="string" if required else ["null", "string"],
        title="Dataset",
        description=f"Name of the dataset.{note}",
        pattern=DATASET_PATTERN,
    )


def ref() -> Any:
    return Param(
        "latest",
        type="string",
        title="Version",
        description="A tag, `latest`, or the first digits (at least 6) of a version id.",
        minLength=1,
    )


def idc(what: str) -> Any:
    return Param(None, type=["null", "string"], title="IDC", description=what)


def nodes() -> Any:
    return Param(
        None,
        type=["null", "string"],
        title="Nodes",
        description="`all`, names with commas between, `role=gpu` or `label.KEY=VALUE`. Empty: as the settings say.",
    )


def query() -> Any:
    return Param(
        DEFAULT_QUERY,
        type="string",
        format="multiline",
        title="Query",
        description="A SELECT over the catalogue (view `frames`). It must keep path, content_id, size, pack and offset.",
        minLength=1,
    )


def source() -> Any:
    return Param(
        None,
        type=["null", "object"],
        title="Source",
        description='Instead of a query: {"kind": "prefix", "uri": "STORE:PREFIX"}, or files, pkl, derive, split (docs/airflow.md).',
    )


def tag() -> Any:
    return Param(
        None,
        type=["null", "string"],
        title="Tag",
        description="A name for the version beside its number (v1, v2, …). It moves if it exists.",
    )


def cut() -> dict[str, Any]:
    """The two fields of the cut policy."""
    return {
        "cut": Param(
            "keyframes",
            type="string",
            enum=["keyframes", "rate"],
            title="Cut policy",
            description="Frames at the video's key frames (cheapest), or at a rate.",
        ),
        "rate_hz": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=120,
            title="Rate (frames per second)",
            description="Only for the cut policy `rate`.",
        ),
    }


def files() -> Any:
    return Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Files",
        description="Only these paths of the version, one per line. Empty: all.",
    )
