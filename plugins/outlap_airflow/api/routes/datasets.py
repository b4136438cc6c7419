"""Datasets, versions and their differences, as the store of this IDC has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Path as PathParam
from fastapi.responses import StreamingResponse

from cacheengine.answers import body_of
from lake.config import Config, load_config
from lake.errors import Explained
from outlap_airflow.api import history
from outlap_airflow.api.access import DATASETS, FOLLOWS
from outlap_airflow.api.errors import problems
from outlap_airflow.api.models import (
    DATASET,
    REF,
    Availability,
    DatasetRow,
    Datasets,
    VersionRow,
    VersionRuns,
    Versions,
    VersionShown,
)

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"], dependencies=DATASETS)
Name = Annotated[str, PathParam(pattern=DATASET, examples=["front"])]
Ref = Annotated[
    str,
    PathParam(
        pattern=REF, examples=["v4"], description="A tag, `latest`, or 6 or more digits of a version id"
    ),
]
RefQuery = Annotated[str, Query(pattern=REF, examples=["v3"])]
Limit = Annotated[int, Query(ge=1, le=200)]
READERS = 16
NDJSON = "application/x-ndjson"
_LINES: dict[int | str, Any] = {
    200: {
        "description": "One JSON object a line, as DiffLine; the last is a summary.",
        "content": {NDJSON: {"schema": {"type": "string"}}},
    }
}


@router.get("", responses=problems())
def list_datasets(
    limit: Limit = 100, after: Annotated[str | None, Query(pattern=DATASET)] = None
) -> Datasets:
    """Datasets by name, each with its newest version."""
    from lake import refs
    from lake.stores import lake_store

    store = lake_store(load_config())
    names = [name for name in refs.list_datasets(store) if after is None or name > after]
    shown = names[:limit]
    with ThreadPoolExecutor(READERS) as pool:
        latest = list(pool.map(lambda name: refs.read_ref(store, name, refs.LATEST), shown))
    rows = [
        DatasetRow(dataset=name)
        if ref is None
        else DatasetRow(dataset=name, tag=ref.tag, version=ref.version, at_ns=ref.at_ns)
        for name, ref in zip(shown, latest, strict=True)
    ]
    return Datasets(datasets=rows, next=shown[-1] if len(names) > limit else None)


@router.get("/{dataset}/versions", responses=problems(404))
def list_versions(
    dataset: Name,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=0, description="`next` of the page before")] = None,
) -> Versions:
    """Versions of a dataset, newest first, with every tag that names them."""
    from lake import refs
    from lake.stores import lake_store

    store = lake_store(load_config())
    by_version: dict[str, list[Any]] = {}
    for ref in refs.list_refs(store, dataset):
        by_version.setdefault(ref.version, []).append(ref)
    if not by_version:
        refs.resolve(store, dataset)  # raises NotFound, which names what there is
    newest = sorted(by_version.values(), key=lambda mine: (-mine[0].at_ns, mine[0].version))
    start = before or 0
    rows = [version_row(mine) for mine in newest[start : start + limit]]
    more = start + limit < len(newest)
    return Versions(dataset=dataset, versions=rows, next=start + limit if more else None)


def version_row(mine: list[Any]) -> VersionRow:
    """mine: the refs of one version."""
    origin = mine[0].origin
    words = [origin.get(name) for name in ("by", "dag", "run")]
    return VersionRow(
        version=mine[0].version,
        tags=[ref.tag for ref in mine],
        at_ns=mine[0].at_ns,
        made_by=" ".join(str(word) for word in words if word) or "unknown",
    )


@router.get("/{dataset}/versions/{ref}", responses=problems(404))
def show_version(dataset: Name, ref: Ref) -> VersionShown:
    """One version: rows, bytes, columns, what made it, and in which IDCs all of it is."""
    from lake import manifests, refs, stores
    from lake.holdings import holdings_key, read_holdings
    from lake.stores import lake_store

    config = load_config()
    store = lake_store(config)
    found = refs.resolve(store, dataset, ref)
    root = manifests.read_root(store, found.version)
    mine = [one for one in refs.list_refs(store, dataset) if one.version == found.version] or [found]
    has_summary = stores.exists(store, holdings_key(found.version))  # making one would read every part
    return VersionShown(
        **version_row(mine).model_dump(),
        dataset=dataset,
        files=root.files,
        bytes=root.bytes,
        parts=len(root.parts),
        identity=root.identity,
        columns={name: str(kind) for name, kind in root.columns},
        origin=dict(found.origin),
        drives=read_holdings(store, found.version).num_rows if has_summary else None,
        idcs=availability(config, found.version),
    )


@router.get("/{dataset}/versions/{ref}/runs", responses=problems(404), dependencies=FOLLOWS)
def list_runs(dataset: Name, ref: Ref) -> VersionRuns:
    """Which runs of Airflow published a version, synced it, warmed it and trained on it."""
    from lake import refs
    from lake.stores import lake_store

    config = load_config()
    found = refs.resolve(lake_store(config), dataset, ref)
    return VersionRuns(runs=history.runs_of(found.dataset, found.version, config))


def availability(config: Config, version: str) -> list[Availability]:
    """Which IDCs have all of a version; they are asked at once, and one that does not answer hides no other."""
    from lake.stores import lake_store
    from lake.versions import is_available

    def ask(idc: str) -> Availability:
        try:
            return Availability(idc=idc, available=is_available(lake_store(config, idc), version))
        except Explained as error:
            return Availability(idc=idc, available=None, problem=str(error))

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(ask, sorted(config.idcs)))


@router.get("/{dataset}/diff", responses={**problems(404), **_LINES}, response_class=StreamingResponse)
def diff(
    dataset: Name,
    old: RefQuery,
    new: RefQuery = "latest",
    limit: Annotated[
        int, Query(ge=0, le=1_000_000, description="How many paths; counts are of all")
    ] = 10_000,
) -> StreamingResponse:
    """Paths that were added, removed or changed from one version to another, one a line, streamed; equal parts are not opened."""
    from lake import manifests, refs
    from lake.stores import lake_store

    store = lake_store(load_config())
    versions = [refs.resolve(store, dataset, ref).version for ref in (old, new)]
    for version in versions:
        manifests.read_root(store, version)  # what is not here is said with a status, not in the stream
    return StreamingResponse(diff_lines(store, versions[0], versions[1], limit), media_type=NDJSON)


def diff_lines(store: Any, old: str, new: str, limit: int) -> Iterator[str]:
    """Lines of NDJSON: DiffLine each. Memory: a part of each side. An error ends the stream with a line that says so."""
    from lake import compare

    counts, sent = {"added": 0, "removed": 0, "changed": 0}, 0
    try:
        for step in compare.differences(store, old, new):
            for kind, rows in (("added", step.added), ("removed", step.removed), ("changed", step.changed)):
                counts[kind] += rows.num_rows
                shown = rows.slice(0, max(0, limit - sent))
                sent += shown.num_rows
                lines = zip(shown["path"].to_pylist(), shown["size"].to_pylist(), strict=True)
                text = "".join(
                    json.dumps({"kind": kind, "path": path, "size": size}) + "\n" for path, size in lines
                )
                if text:
                    yield text
    except Explained as error:
        yield json.dumps({**body_of(error), "error": body_of(error)["kind"], "kind": "error"}) + "\n"
        return
    left_out = sum(counts.values()) - sent
    yield json.dumps({"kind": "summary", "old": old, "new": new, **counts, "left_out": left_out}) + "\n"
