"""The demo: the whole loop on this machine, through Airflow, checked to the last byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lake.config import Config, home, load_config
from outlap import airflow_api as api
from outlap.airflow_api import Airflow, Run
from outlap.demo_input import Input, land
from outlap.demo_read import counters, read_through_mounts
from outlap.errors import DemoFailed
from outlap.stack import secrets, supervisor
from outlap.stack.layout import NODES_IDC, Layout
from outlap.stack.record import read_record
from outlap.stack.status import read_status
from outlap.stack.up import up

DAGS = (
    "ingest_drives",
    "publish_dataset",
    "sync_dataset",
    "warm_dataset",
    "scheduled_training",
    "nightly_incremental",
    "free_dataset",
)
# a restarted Airflow needs most of a minute on a busy machine
HEALTH_PATIENCE_S = 180.0
Say = Callable[[str], None]


def run(recordings: Sequence[Path], say: Say) -> dict[str, Any]:
    """Do the loop and give its summary (JSON values; seconds, bytes). Raises Explained where it does not go as it must."""
    began = time.monotonic()
    layout = Layout(home())
    up_seconds = _make_sure_it_is_up(layout, say)
    page = next(program.address for program in read_record(layout) if program.kind == "airflow")
    config = load_config()
    source = land(config, recordings, say)
    with api.open_airflow(page, secrets.AIRFLOW_USER, secrets.airflow_password(layout)) as session:
        api.wait_for_dags(session, DAGS, say)
        summary = _loop(config, session, source, say)
    return {
        "ok": True,
        "home": str(layout.home),
        "seconds": time.monotonic() - began,
        "up_seconds": up_seconds,
        **summary,
        "airflow": {"page": page, "user": secrets.AIRFLOW_USER, "passwords": str(layout.passwords)},
    }


def _make_sure_it_is_up(layout: Layout, say: Say) -> float:
    """Start the stack unless it runs and is healthy. Raises StackError, DemoFailed."""
    if supervisor.running_pid(layout) is None:
        return up(say=say).seconds
    status = read_status(layout)
    if not any(program.kind == "airflow" for program in read_record(layout)):
        raise DemoFailed(
            f"the local stack in {layout.home}",
            "it is up without Airflow",
            "run `outlap down`, then `outlap demo` again",
        )
    until = time.monotonic() + HEALTH_PATIENCE_S
    while not status.healthy and time.monotonic() < until:
        time.sleep(1)
        status = read_status(layout)
    ill = [f"{p.name} {p.detail or p.state}" for p in status.processes if not p.healthy]
    if ill:
        raise DemoFailed(
            f"the local stack in {layout.home}",
            f"it is not healthy: {'; '.join(ill)}",
            "see `outlap status`, or run `outlap down` and start again",
        )
    say(f"the local stack in {layout.home} is up")
    return 0.0


def _loop(config: Config, session: Airflow, source: Input, say: Say) -> dict[str, Any]:
    before = counters(config, NODES_IDC)
    known = {dag: {one.id for one in api.runs(session, dag)} for dag in ("sync_dataset", "warm_dataset")}
    ingested = _ingest(session, source, say)
    published = _publish(session, source, say)
    key = f"{published['dataset']}@{published['version']}|{NODES_IDC}"
    synced_run = api.follow(
        session, api.new_run(session, "sync_dataset", known["sync_dataset"], key, say), say
    )
    warmed_run = api.follow(
        session, api.new_run(session, "warm_dataset", known["warm_dataset"], key, say), say
    )
    synced = api.result(session, synced_run, f"copy_to_{NODES_IDC}")
    warmed = api.result(session, warmed_run, "warm", map_index=0)
    after_warm = counters(config, NODES_IDC)
    trained = _train(session, published, say)
    before_read = counters(config, NODES_IDC)
    reads = read_through_mounts(config, NODES_IDC, published["dataset"], published["version"], say)
    after = counters(config, NODES_IDC)
    wrong = [line for read in reads for line in read.wrong]
    if wrong:
        shown = "".join(f"\n    {line}" for line in wrong[:10])
        raise DemoFailed(
            f"{len(wrong)} files read through the mounts",
            f"they are not what was published:{shown}",
            f"`outlap verify {published['dataset']}@{published['tag']} --idc {NODES_IDC}`, and keep the nodes as they are",
        )
    read_bytes = sum(read.bytes for read in reads)
    return {
        "input": {
            "drives": [f"{source.vehicle}/{drive.name}" for drive in source.drives],
            "files": sum(len(drive.files) for drive in source.drives),
            "bytes": source.bytes,
        },
        "ingest": ingested,
        "publish": published,
        "sync": {**synced, "idc": NODES_IDC, "run_seconds": synced_run.seconds},
        "warm": {
            "nodes": [read.node for read in reads],
            "files": warmed["files_done"],
            "files_total": warmed["files_total"],
            "bytes": warmed["bytes_done"],
            "run_seconds": warmed_run.seconds,
            "seconds": (warmed["ended_ns"] - warmed["created_ns"]) / 1e9 if warmed.get("ended_ns") else None,
            "store_bytes": after_warm.store - before.store,
            "store_requests": after_warm.requests - before.requests,
        },
        "train": trained,
        "read": {
            "nodes": [asdict(read) for read in reads],
            "files": sum(read.files for read in reads),
            "bytes": read_bytes,
            "seconds": sum(read.seconds for read in reads),
            "hit_rate": 1 - (after.miss - before_read.miss) / read_bytes if read_bytes else 0.0,
            "equal": True,
        },
        "store_bytes": after.store - before.store,
    }


def _ingest(session: Airflow, source: Input, say: Say) -> dict[str, Any]:
    """Run ingest_drives; what became of our drives. Raises DemoFailed when none of them was taken."""
    conf: dict[str, Any] = {"vehicle": source.vehicle}
    if len(source.drives) == 1:
        conf["drive"] = source.drives[0].name
    run = api.follow(session, api.trigger(session, "ingest_drives", conf), say)
    names = {drive.name for drive in source.drives}
    reports = _reports(session, run, names)
    found = api.result(session, run, "find")
    refused = [report for report in reports if report["outcome"] == "quarantined"]
    refused_names = {r["drive"] for r in refused} | {
        d["drive"] for d in found["quarantined"] if d["drive"] in names
    }
    for report in refused:
        for finding in report["findings"]:
            say(
                f"{report['drive']}: {finding['severity']} {finding['rule']} in {finding['file']}: {finding['evidence']}"
            )
    if refused_names == names:
        lines = [f"{f['rule']} in {f['file']}: {f['evidence']}" for r in refused for f in r["findings"]]
        raise DemoFailed(
            f"the drives {', '.join(sorted(names))}",
            "all are in quarantine: " + ("; ".join(lines[:5]) or "as in the run before"),
            "give other recordings with --input",
        )
    taken = [report for report in reports if report["outcome"] == "ingested"]

    def total(key: str) -> float:
        return float(sum(report[key] for report in taken))

    return {
        "ingested": len(taken),
        "already": len(names) - len(taken) - len(refused_names),
        "quarantined": sorted(refused_names),
        "recordings": round(total("recordings")),
        "seconds_of_video": total("seconds_of_video"),
        "frames_4k": round(total("frames_4k")),
        "frames_720p": round(total("frames_720p")),
        "bytes": round(total("bytes")),
        "packs": round(total("packs")),
        "seconds": total("seconds"),
        "run_seconds": run.seconds,
    }


def _reports(session: Airflow, run: Run, names: set[str]) -> list[dict[str, Any]]:
    found = []
    for row in api.tasks(session, run):
        if row["task_id"] == "ingest_drive" and row["map_index"] >= 0 and row["state"] == "success":
            found.append(api.result(session, run, "ingest_drive", row["map_index"]))
    return [report for report in found if report["drive"] in names]


def _publish(session: Airflow, source: Input, say: Say) -> dict[str, Any]:
    conf = {"dataset": source.dataset, "query": source.query, "announce": "always"}
    run = api.follow(session, api.trigger(session, "publish_dataset", conf), say)
    published = api.result(session, run, "publish")
    say(
        f"{published['dataset']}@{published['tag']} is version {published['version'][:12]}: {published['files']} files"
    )
    return {**published, "run_seconds": run.seconds}


def _train(session: Airflow, published: dict[str, Any], say: Say) -> dict[str, Any]:
    conf = {
        "dataset": published["dataset"],
        "ref": published["version"],
        "idc": NODES_IDC,
        "lead_minutes": 0,
        "free": "keep-latest",
    }
    run = api.follow(session, api.trigger(session, "scheduled_training", conf), say)
    return {**api.result(session, run, "train"), "run_seconds": run.seconds}
