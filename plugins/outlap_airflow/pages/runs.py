"""Airflow's own runs, as far as pages speak of them: those that are under way, those of a version, and a new one."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from typing import Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select

from lake.errors import Conflict, NotFound, Refused

MOST_RUNS = 500
UNDERWAY = ("queued", "running")
_COLUMNS = (
    *(DagRun.dag_id, DagRun.run_id, DagRun.state, DagRun.partition_key, DagRun.conf),
    *(DagRun.queued_at, DagRun.start_date, DagRun.end_date),
)
Run = dict[str, Any]


def underway(dag_id: str) -> list[Run]:
    """Queued and running runs of a DAG, newest first."""
    wanted = select(*_COLUMNS).where(DagRun.dag_id == dag_id, DagRun.state.in_(UNDERWAY))
    return _runs(wanted)


def by_partition(dag_ids: Collection[str], keys: Collection[str]) -> list[Run]:
    """Runs of these DAGs for these partition keys, newest first."""
    wanted = select(*_COLUMNS).where(DagRun.dag_id.in_(dag_ids), DagRun.partition_key.in_(keys))
    return _runs(wanted)


def by_prefix(dag_id: str, prefix: str) -> list[Run]:
    """Runs whose id begins so, newest first."""
    return _runs(
        select(*_COLUMNS).where(DagRun.dag_id == dag_id, DagRun.run_id.startswith(prefix, autoescape=True))
    )


def newest(dag_id: str) -> list[Run]:
    """The newest runs of a DAG."""
    return _runs(select(*_COLUMNS).where(DagRun.dag_id == dag_id))


def _runs(wanted: Any) -> list[Run]:
    with create_session() as session:
        found = session.execute(wanted.order_by(DagRun.id.desc()).limit(MOST_RUNS)).all()
    return [
        {
            "dag": row.dag_id,
            "run": row.run_id,
            "state": str(row.state),
            "partition_key": row.partition_key,
            "conf": row.conf or {},
            "queued_ns": _ns(row.queued_at),
            "started_ns": _ns(row.start_date),
            "ended_ns": _ns(row.end_date),
        }
        for row in found
    ]


def events(assets: Iterable[str], keys: Collection[str]) -> list[dict[str, Any]]:
    """Asset events with these partition keys, oldest first."""
    wanted = (
        select(
            AssetModel.name,
            AssetEvent.partition_key,
            AssetEvent.timestamp,
            AssetEvent.source_dag_id,
            AssetEvent.source_run_id,
            AssetEvent.extra,
        )
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(AssetModel.name.in_(list(assets)), AssetEvent.partition_key.in_(keys))
        .order_by(AssetEvent.timestamp)
        .limit(MOST_RUNS)
    )
    with create_session() as session:
        found = session.execute(wanted).all()
    return [
        {
            "asset": row.name,
            "partition_key": row.partition_key,
            "at_ns": _ns(row.timestamp),
            "dag": row.source_dag_id,
            "run": row.source_run_id,
            "extra": row.extra or {},
        }
        for row in found
    ]


def _ns(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000) * 1_000_000


def run_prefix(*parts: str) -> str:
    """The beginning of the ids of all runs about one thing; whatever Airflow does not allow in an id becomes `-`."""
    return "__".join(re.sub(r"[^A-Za-z0-9_.~:+-]", "-", part) for part in parts) + "__"


def start(dag_id: str, prefix: str, conf: dict[str, Any], user_name: str) -> Run:
    """Start a run, or give the one that is under way for the same thing already. Raises NotFound, Conflict, Refused."""
    for run in by_prefix(dag_id, prefix):
        if run["state"] in UNDERWAY:
            return run
    with create_session() as session:
        dag = session.scalar(select(DagModel).where(DagModel.dag_id == dag_id, ~DagModel.is_stale))
        if dag is None:
            raise NotFound(
                f"the DAG {dag_id}", "Airflow has not read it yet, or no more", "see the DAG folder"
            )
        if dag.is_paused:
            raise Conflict(f"the DAG {dag_id}", "it is paused, so the run would wait", "unpause it")
    run_id = f"{prefix}{time.time_ns()}"
    try:
        trigger_dag(
            dag_id,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=user_name,
            run_id=run_id,
            conf=conf,
        )
    except DagRunAlreadyExists as error:
        raise Conflict(f"the run {run_id}", "another was started at the same moment", "try again") from error
    except DagNotFound as error:
        raise NotFound(f"the DAG {dag_id}", str(error), "see the DAG folder") from error
    except (ParamValidationError, ValueError) as error:
        raise Refused("the request", str(error), "correct it") from error
    return by_prefix(dag_id, run_id)[0]
