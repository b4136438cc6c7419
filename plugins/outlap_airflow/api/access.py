"""Who may do what: the host's own authentication and per-DAG authorisation, for each kind of route.

A mounted app inherits none of it, so each router names one of these; tests/plugins/test_api_access.py walks all routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.core_api.security import (
    requires_access_asset,
    requires_access_dag,
    requires_access_view,
)
from fastapi import Depends

PUBLISH, SYNC, WARM = "publish_dataset", "sync_dataset", "warm_dataset"


def _runs(method: ResourceMethod, *dags: str) -> list[Any]:
    return [Depends(requires_access_dag(method, DagAccessEntity.RUN, dag)) for dag in dags]


# what a publish run tells: its configuration, what it returned
READS: Sequence[Any] = [
    *_runs("GET", PUBLISH),
    Depends(requires_access_dag("GET", DagAccessEntity.XCOM, PUBLISH)),
]
DATASETS: Sequence[Any] = [*_runs("GET", PUBLISH), Depends(requires_access_asset("GET"))]
FOLLOWS: Sequence[Any] = [*READS, *_runs("GET", SYNC, WARM)]
# the run of the DAG in the path, whichever that is
RUNS: Sequence[Any] = [
    Depends(requires_access_dag("GET", DagAccessEntity.RUN)),
    Depends(requires_access_asset("GET")),
]
PUBLISHES: Sequence[Any] = _runs("POST", PUBLISH)
CANCELS: Sequence[Any] = _runs("PUT", PUBLISH, SYNC, WARM)
DESCRIBES: Sequence[Any] = [Depends(requires_access_view(AccessView.DOCS))]
