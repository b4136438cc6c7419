"""Who may see which page and press which button: the host's own authorisation, by the DAG whose work a page shows."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import requires_access_dag, requires_access_view
from airflow.models.dag import DagModel
from fastapi import Depends, Header

from cacheengine.errors import Unauthorised

PUBLISH, SYNC, WARM, INGEST = "publish_dataset", "sync_dataset", "warm_dataset", "ingest_drives"


def sees(*dags: str) -> list[Any]:
    """Dependencies of a route: who asks may read the runs of these DAGs."""
    return [Depends(requires_access_dag("GET", DagAccessEntity.RUN, dag)) for dag in dags]


def runs(dag: str) -> list[Any]:
    """Dependencies of a route that changes something: who asks may start runs of this DAG, and asks from our own pages."""
    return [Depends(_same_site), Depends(requires_access_dag("POST", DagAccessEntity.RUN, dag))]


def opens() -> list[Any]:
    """Dependencies of the pages themselves, which show nothing yet."""
    return [Depends(requires_access_view(AccessView.PLUGINS))]


def may_run(user: Any, dag: str) -> bool:
    """Whether buttons that start runs of a DAG are of use to this user; the routes ask again."""
    details = DagDetails(id=dag, team_name=DagModel.get_team_name(dag))
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user
        )
    )


def _same_site(x_outlap: Annotated[str | None, Header()] = None) -> None:
    """A form of another site can send the cookie, but no header of its own."""
    if x_outlap is None:
        raise Unauthorised("this request", "it has no header X-Outlap", "send it from Outlap's pages")
