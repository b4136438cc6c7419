"""How far each destination is behind: versions that are published here and not yet wholly there, and the bytes they lack at most."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lake import stores, versions
from lake.errors import LakeError, NotFound
from outlap_airflow.pages import history, runs
from outlap_airflow.pages.asking import FOREVER, Answer
from outlap_airflow.pages.history import Version
from outlap_airflow.pages.listing import Asking, Row, cut, matching, ordered
from outlap_airflow.pages.sources import LIMIT_S, Sources, told
from outlap_airflow.settings import destinations

DAG_ID = "sync_dataset"
COUNT_LIMIT_S = 300.0
PACK = np.dtype([("id", "S16"), ("size", "i8")])
Packs = npt.NDArray[Any]


def list_links(src: Sources) -> dict[str, Any]:
    """One row a destination: versions and bytes it lacks, how long the oldest waits, the sync runs under way."""
    here = src.config.idc
    known = history.versions_at(src, here)
    chosen = destinations(src.config)
    where = history.available_at(src, chosen)
    underway = runs.underway(DAG_ID)
    links = [
        _link(src, idc, known.value or {}, where[idc], [run for run in underway if _is_for(run, idc)])
        for idc in chosen
    ]
    return {
        "here": here,
        "links": links,
        "runs_unplaced": sum(not any(_is_for(run, idc) for idc in chosen) for run in underway),
        "services": told([(here, known), *where.items()]),
    }


def list_missing(src: Sources, idc: str, asking: Asking) -> dict[str, Any]:
    """Versions that one destination lacks, the oldest first. Raises NotFound."""
    if idc not in destinations(src.config):
        raise NotFound(f"the destination {idc!r}", "versions are not synced there", "choose one of the links")
    known = history.versions_at(src, src.config.idc)
    there = history.available_at(src, [idc])[idc]
    datasets: dict[str, list[Version]] = known.value or {}
    missing = _missing(datasets, there)
    lacks = _bytes_missing(src, idc, missing, datasets, there.value or frozenset()).get("by_version", {})
    underway = [run for run in runs.underway(DAG_ID) if _is_for(run, idc)]
    dead = _dead(src, idc)
    rows: list[Row] = [
        {
            "dataset": name,
            "version": one.id,
            "tag": one.ref.tag,
            "at_ns": one.ref.at_ns,
            "bytes_missing": lacks.get((name, one.id)),
            "run": next((run for run in underway if _names(run, name, one)), None),
            "dead": dead.get((name, one.id)),
        }
        for name, one in missing
    ]
    rows = matching(rows, asking.search, ("dataset", "tag", "version"))
    orders: dict[str, Any] = {
        "at_ns": lambda row: row["at_ns"],
        "dataset": lambda row: (row["dataset"], row["at_ns"]),
        "bytes_missing": lambda row: row["bytes_missing"],
    }
    page = cut(ordered(rows, asking, orders), asking)
    return {"idc": idc, "here": src.config.idc, **page, "services": told([(idc, there)])}


def _link(
    src: Sources, idc: str, datasets: Mapping[str, list[Version]], there: Answer, underway: list[runs.Run]
) -> Row:
    missing = _missing(datasets, there)
    lacks = (
        _bytes_missing(src, idc, missing, datasets, there.value or frozenset()) if missing else {"total": 0}
    )
    oldest = min((one.ref.at_ns for _, one in missing), default=None)
    total = sum(len(mine) for mine in datasets.values())
    return {
        "idc": idc,
        "is_known": there.value is not None,
        "versions": total,
        "versions_missing": len(missing) if there.value is not None else None,
        "datasets_behind": sorted({name for name, _ in missing})[:20],
        "bytes_missing": lacks.get("total") if there.value is not None else None,
        "oldest_ns": oldest,
        "oldest_age_s": (time.time_ns() - oldest) / 1e9 if oldest is not None else None,
        "runs": [
            {name: run[name] for name in ("dag", "run", "state", "partition_key", "started_ns", "queued_ns")}
            for run in underway[:10]
        ],
        "runs_total": len(underway),
    }


def _missing(datasets: Mapping[str, list[Version]], there: Answer) -> list[tuple[str, Version]]:
    """What is not there; nothing, when nobody could tell."""
    if there.value is None:
        return []
    return [(name, one) for name, mine in datasets.items() for one in mine if one.id not in there.value]


def _bytes_missing(
    src: Sources,
    idc: str,
    missing: Sequence[tuple[str, Version]],
    datasets: Mapping[str, Sequence[Version]],
    has: Set[str],
) -> dict[str, Any]:
    """{total, by_version}: bytes of packs that the destination lacks, less those of the newest version of the dataset that it has.

    An upper bound: older versions, and other datasets, may have brought more packs there. {} while it is being counted, which happens
    once for each change of what is missing.
    """
    bases = {name: next((one.id for one in datasets[name] if one.id in has), None) for name, _ in missing}
    wanted = tuple(sorted((name, one.id) for name, one in missing))
    key = ("the bytes that", idc, "lacks", hash((wanted, tuple(sorted(bases.items(), key=str)))))
    found = src.memory.counted.ask({key: partial(_count, src, wanted, bases)}, FOREVER, LIMIT_S)[key]
    return found.value or {}


def _count(
    src: Sources, wanted: Sequence[tuple[str, str]], bases: Mapping[str, str | None]
) -> dict[str, Any]:
    ids = {version for _, version in wanted} | {version for version in bases.values() if version}
    asked = {("the packs of", version): partial(_read_packs, src, version) for version in ids}
    answers = src.memory.asked.ask(asked, FOREVER, COUNT_LIMIT_S)
    problems = [answer.problem for answer in answers.values() if answer.value is None and answer.problem]
    if problems:
        raise LakeError(problems[0]["what"], problems[0]["why"], problems[0]["fix"])
    packs: dict[str, Packs] = {key[1]: answer.value for key, answer in answers.items()}
    lacks = {}
    for name, version in wanted:
        mine, base = packs[version], bases[name]
        lacks[name, version] = mine if base is None else mine[~np.isin(mine["id"], packs[base]["id"])]
    everything = np.concatenate([np.zeros(0, PACK), *lacks.values()])
    _, first = np.unique(everything["id"], return_index=True)
    return {
        "total": int(everything["size"][first].sum()),
        "by_version": {key: int(mine["size"].sum()) for key, mine in lacks.items()},
    }


def _read_packs(src: Sources, version: str) -> Packs:
    found = versions.read_available(src.lake(src.config.idc), version)
    return np.array([(bytes.fromhex(use.id[:32]), use.size) for use in found.packs], PACK)


def _is_for(run: runs.Run, idc: str) -> bool:
    key = run["partition_key"] or ""
    return key.rpartition("|")[2] == idc if "|" in key else run["conf"].get("idc") == idc


def _names(run: runs.Run, dataset: str, one: Version) -> bool:
    key = run["partition_key"] or ""
    if key:
        return key.partition("|")[0] == f"{dataset}@{one.id}"
    ref = run["conf"].get("ref")
    return run["conf"].get("dataset") == dataset and ref in (one.id, one.ref.tag, *one.tags)


def _dead(src: Sources, idc: str) -> dict[tuple[str, str], str]:
    """(dataset, version) → key of its dead-letter list at the destination."""
    key = ("the store of", idc, "dead letters")
    answer = src.memory.asked.ask({key: partial(_list_dead, src, idc)}, 10.0, LIMIT_S)[key]
    return dict(answer.value or {})


def _list_dead(src: Sources, idc: str) -> dict[tuple[str, str], str]:
    found = {}
    for info in stores.list_objects(src.lake(idc), "sync/"):
        parts = info.key.split("/")
        if len(parts) == 3 and parts[2].endswith(".dead.json"):
            found[parts[1], parts[2].removesuffix(".dead.json")] = info.key
    return found
