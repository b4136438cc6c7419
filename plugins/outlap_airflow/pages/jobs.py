"""Warm and free jobs of all IDCs, and one of them with its nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cacheengine.wire import Job, NodeProgress
from outlap_airflow.pages import control
from outlap_airflow.pages.listing import Asking, Row, cut, matching, ordered
from outlap_airflow.pages.sources import Sources, told

ENDED = ("done", "failed", "cancelled")
MOST_FAILURES = 200
MOST_TEXT = 500


def list_jobs(src: Sources, asking: Asking, idc: str = "", state: str = "", kind: str = "") -> dict[str, Any]:
    """One row a job, those that run first. state: one of a job's states, or `active`."""
    answers = control.jobs_of(src)
    rows = [job_row(name, job) for name, answer in answers.items() for job in answer.value or ()]
    counts = Counter(row["state"] for row in rows)
    rows = [
        row
        for row in rows
        if idc in ("", row["idc"])
        and kind in ("", row["kind"])
        and (state in ("", row["state"]) or (state == "active" and row["state"] not in ENDED))
    ]
    rows = matching(rows, asking.search, ("id", "dataset", "tag", "version"))
    orders = {
        "created_ns": lambda row: row["created_ns"],
        "dataset": lambda row: (row["dataset"], row["created_ns"]),
        "state": lambda row: row["state"],
        "bytes_total": lambda row: row["bytes_total"],
        "eta_s": lambda row: row["eta_s"],
        "idc": lambda row: row["idc"],
    }
    if not asking.sort:
        rows.sort(key=lambda row: (row["state"] in ENDED, -row["created_ns"]))
    else:
        rows = ordered(rows, asking, orders)
    return {
        **cut(rows, asking),
        "counts": dict(counts),
        "idcs": src.controls(),
        "services": told(answers.items()),
    }


def show_job(src: Sources, idc: str, job_id: str, asking: Asking, state: str = "") -> dict[str, Any]:
    """One job: its nodes (a page of them), its failures, and which orders it takes. Raises NotFound, ControlDown."""
    src.config.idc_named(idc)
    job = control.job_of(src, idc, job_id)
    nodes = [_node(node) for node in job.nodes]
    counts = Counter(node["state"] for node in nodes)
    nodes = [node for node in nodes if state in ("", node["state"])]
    orders = {
        "node": lambda row: row["node"],
        "state": lambda row: row["state"],
        "bytes_done": lambda row: row["bytes_done"],
        "rate_bps": lambda row: row["rate_bps"],
        "failures": lambda row: row["failures"],
    }
    listed = cut(ordered(matching(nodes, asking.search, ("node",)), asking, orders), asking)
    failures: list[Row] = [
        {"node": node.node, "path": failure.path, "cause": failure.cause}
        for node in job.nodes
        for failure in node.failures
    ] or [{"node": None, "path": failure.path, "cause": failure.cause} for failure in job.failures]
    orders_now = (
        ["resume"] if job.state in ("failed", "cancelled") else ["cancel"] if job.state not in ENDED else []
    )
    return {
        **job_row(idc, job),
        "cause": job.cause,
        "node_count": len(job.nodes),
        "nodes": listed,
        "node_states": dict(counts),
        "failures": failures[:MOST_FAILURES],
        "failures_total": len(failures),
        "orders": orders_now if job.kind == "warm" else [],
    }


def job_row(idc: str, job: Job) -> Row:
    return {
        "idc": idc,
        **job.model_dump(
            include={
                *("id", "kind", "dataset", "tag", "version", "state", "rate_bps", "eta_s"),
                *(
                    "files_total",
                    "files_done",
                    "bytes_total",
                    "bytes_done",
                    "bytes_coming",
                    "created_ns",
                    "ended_ns",
                ),
            }
        ),
        # of a thousand nodes that failed it names each: the first ones say enough
        "error": job.error
        if job.error is None or len(job.error) <= MOST_TEXT
        else job.error[:MOST_TEXT] + "…",
    }


def _node(node: NodeProgress) -> Row:
    return {
        **node.model_dump(exclude={"failures"}),
        "failures": len(node.failures),
        "eta_s": node.eta_s if node.state == "fetching" else None,
    }
