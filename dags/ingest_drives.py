"""Landed drives → checked recordings, frames, packs, catalogue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from outlap_airflow import forms, ingest
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import Ingest

with DAG(
    dag_id="ingest_drives",
    description="Take complete drives from landing, check them, cut frames, fill the catalogue",
    doc_md="""
Finds the drives of the landing bucket that are complete and not ingested yet, and ingests each in a task of its own,
at most 200 in a run. The clips of a drive that is too large for one task are cut by several, before that.

A drive in quarantine does not stop the others: the task `report` names it, and its rules and evidence lie in
`quarantine/` of the lake. A drive without `COMPLETE.json` is reported as not ready. Running it again does only what
is left.
""",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["outlap", "ingest"],
    default_args={**RETRIES, "execution_timeout": timedelta(hours=6)},
    params={
        "vehicle": Param(
            None,
            type=["null", "string"],
            title="Vehicle",
            description="Only drives of this vehicle. Empty: all.",
        ),
        "drive": Param(
            None,
            type=["null", "string"],
            title="Drive",
            description="Only the drive of this name. Empty: all.",
        ),
        **forms.cut(),
        "retry_quarantined": Param(
            False,
            type="boolean",
            title="Try refused drives again",
            description="Check drives again that are in quarantine with the same files.",
        ),
        "since_ns": Param(
            0,
            type="integer",
            minimum=0,
            title="Watermark (ns)",
            description="Set by the nightly run: what was uploaded before and is ingested or refused is not read again.",
        ),
        "until_ns": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Until (ns)",
            description="Set by the nightly run: drives whose upload ended later are left for the next night.",
        ),
    },
):

    @task
    def find() -> dict[str, Any]:
        params = get_current_context()["params"]
        return ingest.find_drives(
            params["vehicle"],
            params["drive"],
            params["cut"],
            params["rate_hz"],
            params["retry_quarantined"],
            params["since_ns"],
            params["until_ns"],
        )

    @task
    def to_ingest(found: dict[str, Any]) -> list[dict[str, str]]:
        return list(found["to_ingest"])

    @task
    def to_cut(found: dict[str, Any]) -> list[dict[str, Any]]:
        params = get_current_context()["params"]
        return ingest.plan_cuts(found, params["cut"], params["rate_hz"])

    @task(map_index_template="{{ shard_name }}", max_active_tis_per_dagrun=16)
    def cut_shard(shard: dict[str, Any]) -> dict[str, Any]:
        context = get_current_context()
        context["shard_name"] = f"{shard['vehicle']}/{shard['drive']} {shard['shard'][:8]}"
        return ingest.cut_shard(shard, context["params"]["cut"], context["params"]["rate_hz"])

    @task(trigger_rule="all_done", retries=0)
    def report(found: dict[str, Any], reports: Any) -> dict[str, Any]:
        return ingest.report_batch(found, [item for item in reports if item is not None])

    found = find()
    # also when a shard failed, or there was none: what is not cut yet is cut here
    ingested = Ingest.partial(
        task_id="ingest_drive",
        cut="{{ params.cut }}",
        rate_hz="{{ params.rate_hz or '' }}",
        map_index_template="{{ drive_name }}",
        max_active_tis_per_dagrun=8,
        trigger_rule="all_done",
    ).expand(pair=to_ingest(found))
    cut_shard.expand(shard=to_cut(found)) >> ingested
    report(found, ingested.output)
