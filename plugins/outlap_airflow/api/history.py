"""Runs of Airflow by version, and versions by run: what asset events and partition keys say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from lake.config import Config
from lake.errors import NotFound
from outlap_airflow.api.access import WARM
from outlap_airflow.api.models import VersionRun
from outlap_airflow.assets import (
    dataset_published,
    dataset_synced,
    dataset_trained,
    published_key,
    synced_key,
)

STEPS = {dataset_published.name: "publish", dataset_synced.name: "sync", dataset_trained.name: "train"}
MOST_RUNS = 500


def runs_of(dataset: str, version: str, config: Config) -> list[VersionRun]:
    """Which runs published, synced, warmed and trained on a version, oldest first; at most MOST_RUNS of each kind."""
    published = published_key(dataset, version)
    keys = [published, *(synced_key(published, idc) for idc in config.idcs)]
    with create_session() as session:
        return sorted(
            [*_by_event(session, AssetEvent.partition_key.in_(keys)), *_warms(session, keys)],
            key=lambda run: (run.at_ns, run.run_id),
        )


def versions_of_run(dag_id: str, run_id: str) -> list[VersionRun]:
    """What a run did: an entry for each version that it published, synced, warmed or trained on. Raises NotFound."""
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None:
            raise NotFound(f"the run {dag_id}/{run_id}", "Airflow has no such run", "name it as DAG/RUN")
        mine = (AssetEvent.source_dag_id == dag_id) & (AssetEvent.source_run_id == run_id)
        warmed = [_warm(run)] if dag_id == WARM and run.partition_key else []
        return [*_by_event(session, mine), *warmed]


def _by_event(session: Any, chosen: Any) -> list[VersionRun]:
    query = (
        select(AssetModel.name, AssetEvent, DagRun.state)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .outerjoin(
            DagRun, (DagRun.dag_id == AssetEvent.source_dag_id) & (DagRun.run_id == AssetEvent.source_run_id)
        )
        .where(AssetModel.name.in_(list(STEPS)), AssetEvent.source_run_id.is_not(None), chosen)
        .order_by(AssetEvent.id.desc())
        .limit(MOST_RUNS)
    )
    found = []
    for name, event, state in session.execute(query):
        dataset, version, idc = _named(event.partition_key)
        found.append(
            VersionRun(
                step=STEPS[name],  # type: ignore[arg-type]
                dag=event.source_dag_id,
                run_id=event.source_run_id,
                state=str(state or "gone"),
                dataset=dataset,
                version=version,
                idc=idc,
                at_ns=int(event.timestamp.timestamp() * 1000) * 1_000_000,
                nodes=(event.extra or {}).get("nodes"),
            )
        )
    return found


def _warms(session: Any, keys: Sequence[str]) -> list[VersionRun]:
    """A warm emits no event; its run carries the key."""
    query = select(DagRun).where(DagRun.dag_id == WARM, DagRun.partition_key.in_(keys))
    return [_warm(run) for run in session.scalars(query.order_by(DagRun.id.desc()).limit(MOST_RUNS))]


def _warm(run: Any) -> VersionRun:
    dataset, version, idc = _named(run.partition_key)
    began = run.queued_at or run.start_date or run.run_after
    return VersionRun(
        step="warm",
        dag=run.dag_id,
        run_id=run.run_id,
        state=str(run.state),
        dataset=dataset,
        version=version,
        idc=idc,
        at_ns=int(began.timestamp() * 1000) * 1_000_000,
    )


def _named(key: str | None) -> tuple[str, str, str | None]:
    published, _, idc = (key or "").partition("|")
    dataset, _, version = published.partition("@")
    return dataset, version, idc or None
