"""Run in the environment of a test's own Airflow: its DAGs, a sync that is under way, and the events of one that is done.

python seed.py JSON: {"published": [key, …], "synced": [key, …], "running": [key, …]}
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

asked = json.loads(sys.argv[1])
DagBundlesManager().sync_bundles_to_db()
bag = DagBag()
assert not bag.import_errors, bag.import_errors
sync_bag_to_db(bag, "dags-folder", None)
now = datetime.now(UTC)


def run(dag: str, run_id: str, state: str, key: str | None, minutes: float) -> DagRun:
    begun = now - timedelta(minutes=minutes)
    made = DagRun(
        dag_id=dag,
        run_id=run_id,
        queued_at=begun,
        start_date=begun,
        run_after=begun,
        run_type="manual",
        conf={},
        state=state,
        partition_key=key,
    )
    if state in ("success", "failed"):
        made.end_date = begun + timedelta(minutes=1)
    return made


with create_session() as session:
    for dag in session.scalars(select(DagModel)):
        dag.is_paused = False
    assets = {asset.name: asset.id for asset in session.scalars(select(AssetModel))}
    for at, key in enumerate(asked["published"]):
        session.add(
            AssetEvent(
                asset_id=assets["dataset_published"],
                partition_key=key,
                source_dag_id="publish_dataset",
                source_run_id="r",
                extra={},
                timestamp=now - timedelta(hours=30 - at),
            )
        )
    for at, key in enumerate(asked["synced"]):
        session.add(
            AssetEvent(
                asset_id=assets["dataset_synced"],
                partition_key=key,
                source_dag_id="sync_dataset",
                source_run_id=f"asset__{at}",
                extra={"bytes_copied": 2_345_678},
                timestamp=now - timedelta(hours=29 - at),
            )
        )
        session.add(run("sync_dataset", f"asset__{at}", "success", key, 60 * (29 - at)))
        session.add(run("warm_dataset", f"asset__{at}", "success", key, 60 * (29 - at) - 2))
    for at, key in enumerate(asked["running"]):
        session.add(run("sync_dataset", f"asset__running-{at}", "running", key, 4))
