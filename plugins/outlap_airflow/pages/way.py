"""The way of a version: published, synced to each IDC, warmed there, trained on; each step with its run, and what is under way now."""

from __future__ import annotations

from typing import Any

from outlap_airflow.assets import dataset_published, dataset_synced, published_key, synced_key
from outlap_airflow.pages import control, datasets, history, jobs, runs
from outlap_airflow.pages.sources import Sources, told

TRAINING = "scheduled_training"


def show_way(src: Sources, dataset: str, asked: str) -> dict[str, Any]:
    """{published, idcs: [{idc, available, synced, runs, jobs, nodes}], trainings} of a version. Raises NotFound."""
    one = datasets.find(src, dataset, asked)
    idcs = sorted(src.config.idcs)
    published = published_key(dataset, one.id)
    keys = {idc: synced_key(published, idc) for idc in idcs}
    told_of = runs.events([dataset_published.name, dataset_synced.name], [published, *keys.values()])
    partitioned = runs.by_partition(["sync_dataset", "warm_dataset"], list(keys.values()))
    where = history.available_at(src, idcs)
    held, worked = control.nodes_of(src, dataset=dataset), control.jobs_of(src)

    def step(idc: str) -> dict[str, Any]:
        synced = [event for event in told_of if event["partition_key"] == keys[idc]]
        there = where[idc].value
        nodes = held[idc].value if idc in held else None
        reports = [
            r for node in nodes or () for r in node.versions if r.version == one.id and r.list_id is None
        ]
        mounts = sum(mount.version == one.id for node in nodes or () for mount in node.mounts)
        mine = [job for job in (worked[idc].value if idc in worked else None) or () if job.version == one.id]
        return {
            "idc": idc,
            "is_here": idc == src.config.idc,
            "has_control": idc in held,
            "available": None if there is None else one.id in there,
            "synced": synced[-1] if synced else None,
            "runs": [run for run in partitioned if run["partition_key"] == keys[idc]],
            "jobs": [jobs.job_row(idc, job) for job in mine],
            "nodes": None if nodes is None else len(nodes),
            "nodes_resident": sum(report.state == "resident" for report in reports),
            "mounts": mounts,
        }

    refs = {one.id, one.ref.tag, *one.tags}
    trained = [
        run
        for run in runs.newest(TRAINING)
        if run["conf"].get("dataset") == dataset and run["conf"].get("ref", "latest") in refs
    ]
    return {
        "dataset": dataset,
        "version": one.id,
        "tag": one.ref.tag,
        "at_ns": one.ref.at_ns,
        "made_by": datasets.made_by(one.ref),
        "run": datasets.run_of(one.ref),
        "announced": next((event for event in told_of if event["partition_key"] == published), None),
        "idcs": [step(idc) for idc in idcs],
        "trainings": trained[:20],
        "services": told([*held.items()]),
    }
