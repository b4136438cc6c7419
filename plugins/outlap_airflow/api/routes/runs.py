"""What a run of Airflow did with which version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Path as PathParam

from outlap_airflow.api import history
from outlap_airflow.api.access import RUNS
from outlap_airflow.api.errors import problems
from outlap_airflow.api.models import RUN_ID, VersionRuns

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
DagId = Annotated[str, PathParam(pattern=r"^[A-Za-z0-9_.~-]{1,250}$", examples=["publish_dataset"])]
RunId = Annotated[str, PathParam(pattern=RUN_ID, examples=["api__night-17"])]


@router.get("/{dag_id}/{run_id}", responses=problems(404), dependencies=RUNS)
def show_run(dag_id: DagId, run_id: RunId) -> VersionRuns:
    """The versions that a run published, synced, warmed or trained on; the way back from a training to its drives."""
    return VersionRuns(runs=history.versions_of_run(dag_id, run_id))
