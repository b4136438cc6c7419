"""Datasets, the versions of one, and one version: what changed, where it is available, what made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lake import manifests, stores, versions
from lake.errors import NotFound
from lake.holdings import holdings_key
from lake.names import check_dataset
from lake.refs import PREFIX, Ref
from outlap_airflow.pages import history
from outlap_airflow.pages.asking import FOREVER, Answer
from outlap_airflow.pages.history import Version
from outlap_airflow.pages.listing import Asking, Row, cut, matching, ordered
from outlap_airflow.pages.sources import LIMIT_S, Sources, told

MOST_DRIVES = 100


def list_datasets(src: Sources, asking: Asking) -> dict[str, Any]:
    """One row a dataset: its newest version, and in which IDCs that is available."""
    known = history.versions_at(src, src.config.idc)
    where = history.available_at(src, sorted(src.config.idcs))
    datasets: dict[str, list[Version]] = known.value or {}
    rows: list[Row] = [
        {
            "dataset": name,
            "versions": len(mine),
            "tag": mine[0].ref.tag,
            "version": mine[0].id,
            "at_ns": mine[0].ref.at_ns,
            "available": _where(where, mine[0].id),
        }
        for name, mine in datasets.items()
    ]
    rows = matching(rows, asking.search, ("dataset",))
    if asking.sort in ("bytes", "files"):  # else only those that are shown are measured
        _measure(src, rows)
    orders = {
        "dataset": lambda row: row["dataset"],
        "versions": lambda row: row["versions"],
        "at_ns": lambda row: row["at_ns"],
        "bytes": lambda row: row.get("bytes"),
        "files": lambda row: row.get("files"),
    }
    page = cut(ordered(rows, asking, orders), asking)
    _measure(src, page["rows"])
    return {**page, **_services(src, known, where)}


def list_versions(src: Sources, dataset: str, asking: Asking) -> dict[str, Any]:
    """One row a version, newest first: what it changed against the one before, where it is available, what made it.

    Raises NotFound.
    """
    known, mine = _versions(src, dataset)
    where = history.available_at(src, sorted(src.config.idcs))
    rows = [
        {
            "version": one.id,
            "tag": one.ref.tag,
            "number": one.number,
            "tags": list(one.tags),
            "at_ns": one.ref.at_ns,
            "before": one.before,
            "made_by": made_by(one.ref),
            "query": one.ref.origin.get("query"),
            "available": _where(where, one.id),
        }
        for one in mine
    ]
    rows = matching(rows, asking.search, ("version", "tag", "tags", "query", "made_by"))
    orders = {"at_ns": lambda row: (row["number"], row["at_ns"])}
    newest_first = Asking(sort="at_ns", descending=asking.sort == "" or asking.descending)
    page = cut(ordered(rows, newest_first, orders), asking)
    _measure(src, page["rows"])
    pairs = [(row["before"], row["version"]) for row in page["rows"] if row["before"]]
    changed = history.changes(src, src.config.idc, pairs)
    for row in page["rows"]:
        row["changes"] = changed.get(row["version"], {"state": "first"})
        row["query"] = _short(row["query"])
    return {"dataset": dataset, **page, **_services(src, known, where)}


def show_version(src: Sources, dataset: str, asked: str, count: bool = False) -> dict[str, Any]:
    """Everything of one version (a tag, or the first digits of its id). `count`: count its changes, however many rows differ.

    Raises NotFound, Refused.
    """
    known, mine = _versions(src, dataset)
    one = _named(mine, dataset, asked)
    where = history.available_at(src, sorted(src.config.idcs))
    key = ("the manifest of", one.id)
    answer = src.memory.asked.ask({key: lambda: _read(src, one.id)}, FOREVER, LIMIT_S)[key]
    before = next((other for other in mine if other.id == one.before), None)
    changed: dict[str, Any] = {"state": "first"}
    if before is not None:
        changed = history.changes(src, src.config.idc, [(before.id, one.id)], count)[one.id]
    after = next((other for other in mine if other.before == one.id), None)
    return {
        "dataset": dataset,
        "version": one.id,
        "tag": one.ref.tag,
        "tags": list(one.tags),
        "at_ns": one.ref.at_ns,
        "before": _neighbour(before),
        "after": _neighbour(after),
        "origin": {name: value for name, value in one.ref.origin.items() if isinstance(value, str | int)},
        "made_by": made_by(one.ref),
        "run": run_of(one.ref),
        "available": _where(where, one.id),
        "changes": changed,
        "holds": answer.value,
        "problem": answer.problem,
        **_services(src, known, where),
    }


def _read(src: Sources, version: str) -> dict[str, Any]:
    """What never changes of a version: totals, columns, packs, and the drives that it holds most of."""
    store = src.lake(src.config.idc)
    root = manifests.read_root(store, version)
    try:
        packs: int | None = len(versions.read_available(store, version).packs)
    except NotFound:
        packs = None
    return {
        "files": root.files,
        "bytes": root.bytes,
        "parts": len(root.parts),
        "packs": packs,
        "identity": root.identity,
        "columns": [{"name": name, "type": kind} for name, kind in root.columns],
        "drives": _drives(src, version),
    }


def _drives(src: Sources, version: str) -> dict[str, Any] | None:
    """The drives of a version by the summary beside it; None where there is none: making it would read every part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(stores.get(src.lake(src.config.idc), holdings_key(version))))
    except NotFound:
        return None
    largest = table.sort_by([("bytes", "descending")]).slice(0, MOST_DRIVES)
    return {"total": table.num_rows, "rows": largest.to_pylist()}


def find(src: Sources, dataset: str, asked: str) -> Version:
    """A version by a tag or the first digits of its id. Raises NotFound."""
    return _named(_versions(src, dataset)[1], dataset, asked)


def _versions(src: Sources, dataset: str) -> tuple[Answer, list[Version]]:
    check_dataset(dataset)
    known = history.versions_at(src, src.config.idc)
    mine = (known.value or {}).get(dataset)
    if mine is None:
        why = "no version of it is published here" if known.value is not None else str(known.problem)
        raise NotFound(f"the dataset {dataset!r}", why, "check its name, or publish it")
    return known, mine


def _named(mine: Sequence[Version], dataset: str, asked: str) -> Version:
    for one in mine:
        if asked in (one.id, one.ref.tag, *one.tags):
            return one
    fitting = [one for one in mine if PREFIX.fullmatch(asked) and one.id.startswith(asked)]
    if len(fitting) != 1:
        why = "several versions begin so" if fitting else "there is no such tag or version id"
        raise NotFound(f"the version {dataset}@{asked[:80]}", why, "choose one of the list of versions")
    return fitting[0]


def _neighbour(one: Version | None) -> dict[str, str] | None:
    return None if one is None else {"version": one.id, "tag": one.ref.tag}


def made_by(ref: Ref) -> str:
    """One line: what published a version, as its origin says."""
    dag, by = ref.origin.get("dag"), ref.origin.get("by")
    if dag:
        return f"DAG {dag}"
    return str(by) if by else "unknown"


def run_of(ref: Ref) -> dict[str, str] | None:
    """The run that published a version: {dag, run}."""
    dag, run = ref.origin.get("dag"), ref.origin.get("run")
    return {"dag": str(dag), "run": str(run)} if dag and run else None


def _short(query: Any, most: int = 200) -> str | None:
    text = " ".join(str(query).split()) if query else ""
    return (text[: most - 1] + "…" if len(text) > most else text) or None


def _where(where: Mapping[str, Answer], version: str) -> dict[str, bool | None]:
    """IDC → whether the version is wholly there; None where nobody could tell."""
    return {
        idc: None if answer.value is None else version in answer.value
        for idc, answer in sorted(where.items())
    }


def _measure(src: Sources, rows: Sequence[Row]) -> None:
    """files and bytes of each row's version, and what they grew by; None while they are being read."""
    wanted = {row["version"] for row in rows} | {row["before"] for row in rows if row.get("before")}
    known = history.totals(src, src.config.idc, wanted)
    for row in rows:
        mine, before = known.get(row["version"]), known.get(row.get("before") or "")
        for name in ("files", "bytes"):
            row[name] = mine[name] if mine else None
            row[f"{name}_grown"] = mine[name] - before[name] if mine and before else None


def _services(src: Sources, known: Answer, where: Mapping[str, Answer]) -> dict[str, Any]:
    answers = [
        (src.config.idc, known),
        *((idc, found) for idc, found in where.items() if idc != src.config.idc),
    ]
    return {"here": src.config.idc, "idcs": sorted(src.config.idcs), "services": told(answers)}
