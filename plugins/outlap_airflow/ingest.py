"""Which drives to ingest, ingesting one, and the report of a batch. Plain functions: the DAGs wrap them in tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Literal

from airflow.sdk.exceptions import AirflowFailException

from lake.config import load_config
from lake.errors import Corrupt, NotFound
from outlap_airflow.faults import told
from outlap_airflow.settings import scratch_folder
from transforms.errors import TransformError

# Airflow's own limits: a map of thousands freezes its scheduler. The rest is left for the next run, and said so.
MOST_DRIVES = 200
# How much the clocks of vehicles' stores and of Airflow may differ
OVERLAP_NS = 3600 * 10**9
READERS = 16

log = logging.getLogger(__name__)
Pair = dict[str, str]


def recipe_for(cut: str, rate_hz: float | None) -> Any:
    """The recipe of a cut policy: `keyframes`, or `rate` with frames per second. Raises Refused."""
    from lake.errors import Refused
    from transforms.recipe import recipe_at

    if cut == "rate":
        if not rate_hz:
            raise Refused(
                "the cut policy 'rate'", "it needs frames per second", "give rate_hz, for example 2"
            )
        return recipe_at(rate_hz)
    return recipe_at(None)


@told()
def find_drives(
    vehicle: str | None,
    drive: str | None,
    cut: str,
    rate_hz: float | None,
    retry_quarantined: bool,
    since_ns: int = 0,
    until_ns: int | None = None,
) -> dict[str, Any]:
    """What is landed, sorted into: to_ingest (at most 200), left (beyond that), already, quarantined, not_ready.

    A drive is new when its COMPLETE.json is not the one that was ingested under its name, or the recipe was not applied
    yet. since_ns: of uploads that ended before it nothing is read again, so what they were is believed (a night's watermark, less
    OVERLAP_NS); a drive that was not ingested then is taken all the same. until_ns: uploads that ended later are not ready.
    Raises NotFound for a named drive that was never uploaded.
    """
    from lake import catalog, landing, quarantine
    from lake.stores import lake_store, landing_store
    from transforms.recipe import recipe_id

    config = load_config()
    uploads, lake = landing_store(config), lake_store(config)
    recipe = recipe_id(recipe_for(cut, rate_hz))
    landed = [one for one in landing.uploads(uploads, vehicle) if drive is None or one.drive == drive]
    ended = {(one.vehicle, one.drive): one.ended_ns for one in landed if one.ended_ns is not None}
    ready = [pair for pair, at_ns in ended.items() if until_ns is None or at_ns <= until_ns]
    is_ready = set(ready)
    not_ready = [pair for one in landed if (pair := (one.vehicle, one.drive)) not in is_ready]
    if drive is not None and not landed:
        raise NotFound(
            f"the drive {drive!r}",
            f"landing {uploads.name} has no such upload",
            "check its name and its vehicle",
        )
    cut_before = {
        (item.vehicle, item.drive) for item in catalog.drives_in(lake) if item.recipe == recipe[:16]
    }
    refused = set[tuple[str, str]]()
    if not retry_quarantined:
        refused = {*quarantine.names(lake), *quarantine.dismissed_names(lake)}

    def state(pair: tuple[str, str]) -> Literal["to_ingest", "already", "quarantined"]:
        if pair not in cut_before and pair not in refused:
            return "to_ingest"
        if ended[pair] < since_ns - OVERLAP_NS:
            return "quarantined" if pair in refused else "already"
        try:
            fingerprint = landing.read_drive(uploads, *pair).fingerprint
        except NotFound:
            return "to_ingest"  # it went away in between: the task of the drive says so
        except Corrupt:
            fingerprint = landing.malformed_fingerprint(uploads, *pair)
        if pair in refused and fingerprint in _refused_fingerprints(lake, pair):
            return "quarantined"
        return "already" if landing.raw_fingerprint(lake, *pair) == fingerprint else "to_ingest"

    found: dict[str, list[Pair]] = {
        key: [] for key in ("to_ingest", "left", "already", "quarantined", "not_ready")
    }
    with ThreadPoolExecutor(READERS) as pool:
        for pair, kind in zip(ready, pool.map(state, ready), strict=True):
            full = kind == "to_ingest" and len(found["to_ingest"]) >= MOST_DRIVES
            found["left" if full else kind].append({"vehicle": pair[0], "drive": pair[1]})
    found["not_ready"] = [{"vehicle": pair[0], "drive": pair[1]} for pair in not_ready]
    return {"recipe": recipe, **found}


def _refused_fingerprints(lake: Any, pair: tuple[str, str]) -> set[str]:
    """Of what was refused or dismissed under a drive's name; none for an entry that cannot be read: then the drive is judged again."""
    from lake import quarantine

    found = set()
    for read in (quarantine.read, quarantine.read_dismissed):
        try:
            entry = read(lake, *pair)
        except Corrupt as error:
            log.warning("%s", error)
            continue
        found |= {entry.fingerprint} if entry is not None else set()
    return found


@told()
def plan_cuts(found: Mapping[str, Any], cut: str, rate_hz: float | None) -> list[dict[str, Any]]:
    """The shards of drives that are too large for one task: {vehicle, drive, shard, shard_bytes}, at most 200.

    A shard is named, not spelt out: its paths may be many, and the same drive and size give the same shards again.
    """
    from lake.stores import landing_store
    from transforms import shards

    pairs = [(pair["vehicle"], pair["drive"]) for pair in found["to_ingest"]]
    uploads, recipe, size = landing_store(load_config()), recipe_for(cut, rate_hz), shards.SHARD_BYTES
    while True:
        planned = [shard for shard in shards.plan_shards(uploads, pairs, recipe, size).shards if shard.clips]
        if len(planned) <= MOST_DRIVES:
            break
        size *= 2
    return [
        {"vehicle": vehicle, "drive": drive, "shard": shard.id, "shard_bytes": size}
        for shard in planned
        for vehicle, drive in shard.drives
    ]


@told(TransformError)
def cut_shard(named: Mapping[str, Any], cut: str, rate_hz: float | None) -> dict[str, Any]:
    """Cut the clips of one shard and keep them for ingest_one; {shard, cut, kept}. Raises NotFound for a drive that changed."""
    from lake.stores import lake_store, landing_store
    from transforms import shards

    config = load_config()
    uploads, recipe = landing_store(config), recipe_for(cut, rate_hz)
    pair = (named["vehicle"], named["drive"])
    planned = shards.plan_shards(uploads, [pair], recipe, named["shard_bytes"]).shards
    shard = next((shard for shard in planned if shard.id == named["shard"]), None)
    if shard is None:
        raise NotFound(
            f"the shard {named['shard']} of {pair[0]}/{pair[1]}",
            "the drive was uploaded anew",
            "run the DAG again",
        )
    with scratch_folder(config) as scratch:
        done = shards.run_shard(uploads, lake_store(config), shard, recipe, scratch)
    log.info("%s/%s: %d clips cut, %d were", *pair, done.cut, done.kept)
    return {"shard": shard.id, "cut": done.cut, "kept": done.kept}


@told(TransformError)
def ingest_one(pair: Pair, cut: str, rate_hz: float | None) -> dict[str, Any]:
    """Ingest one drive, with what shards have cut of it; the JSON of its IngestReport, findings included."""
    from lake.stores import lake_store, landing_store
    from transforms.ingest import ingest_drive
    from transforms.shards import plan_shards

    config = load_config()
    recipe = recipe_for(cut, rate_hz)
    is_split = plan_shards(landing_store(config), [(pair["vehicle"], pair["drive"])], recipe).split != ()
    name = f"{pair['vehicle']}/{pair['drive']}"

    def progress(step: str, done: int, total: int) -> None:
        log.info("%s: %s %d of %d", name, step, done, total)

    with scratch_folder(config) as scratch:
        report = ingest_drive(
            landing_store(config),
            lake_store(config),
            pair["vehicle"],
            pair["drive"],
            recipe,
            scratch,
            progress,
            keep=is_split,
        )
    for finding in report.findings:
        log.warning(
            "%s: %s %s in %s: %s", name, finding.severity, finding.rule, finding.file, finding.evidence
        )
    return asdict(report)


def report_batch(found: Mapping[str, Any], reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum a batch up; log each drive that needs someone. Raises AirflowFailException when a drive failed."""
    done = list(reports)
    ingested = [item for item in done if item["outcome"] == "ingested"]
    answered = {(item["vehicle"], item["drive"]) for item in done}
    failed = [pair for pair in found["to_ingest"] if (pair["vehicle"], pair["drive"]) not in answered]
    quarantined = [
        {"vehicle": item["vehicle"], "drive": item["drive"]}
        for item in done
        if item["outcome"] == "quarantined"
    ]
    summary = {
        "ingested": len(ingested),
        "frames": sum(item["frames"] for item in ingested),
        "bytes": sum(item["bytes"] for item in ingested),
        "already": len(found["already"]) + sum(item["outcome"] == "already" for item in done),
        "quarantined": quarantined + list(found["quarantined"]),
        "not_ready": found["not_ready"],
        "left": len(found["left"]),
        "failed": failed,
    }
    for key, advice in (
        ("quarantined", "in quarantine: see quarantine/ of the lake for rules and evidence"),
        ("not_ready", "not ready: its COMPLETE.json is not uploaded yet"),
        ("failed", "failed: see the log of its task"),
    ):
        for pair in summary[key]:
            log.warning("%s/%s is %s", pair["vehicle"], pair["drive"], advice)
    if summary["left"]:
        log.warning("%d drives are left for the next run: one run takes %d", summary["left"], MOST_DRIVES)
    log.info(
        "ingested %d drives, %d frames, %d bytes", summary["ingested"], summary["frames"], summary["bytes"]
    )
    if failed:
        names = ", ".join(f"{pair['vehicle']}/{pair['drive']}" for pair in failed)
        raise AirflowFailException(
            f"{len(failed)} drives failed: {names}. Next: see the logs of their tasks, then clear them"
        )
    return summary
