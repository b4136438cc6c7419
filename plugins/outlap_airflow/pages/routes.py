"""The data behind the pages, as JSON at /outlap/ui/data: thin routes, each with the host's authorisation.

Reading a page asks for what reading the runs of its DAG asks for; a button asks for what starting such a run asks for. Routes are plain
functions, so FastAPI gives each request a thread, and one that waits for a store or a control service stops nobody else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, Depends, Query
from fastapi import Path as PathParam

from outlap_airflow.pages import access, alerts, control, datasets, jobs, nodes, quarantine, synclag, way
from outlap_airflow.pages.access import INGEST, PUBLISH, SYNC, WARM
from outlap_airflow.pages.listing import MOST_ROWS, Asking
from outlap_airflow.pages.sources import Sources, sources

router = APIRouter(prefix="/data")
Src = Annotated[Sources, Depends(sources)]
Name = Annotated[str, PathParam(max_length=128)]
Filter = Annotated[str, Query(max_length=250)]
Json = dict[str, Any]


def _asking(
    search: Filter = "",
    sort: Filter = "",
    order: Literal["asc", "desc"] = "asc",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> Asking:
    return Asking(search, sort, order == "desc", page, limit)


Ask = Annotated[Asking, Depends(_asking)]


@router.get("/datasets", dependencies=access.sees(PUBLISH))
def list_datasets(src: Src, asking: Ask) -> Json:
    """Datasets of this IDC's store."""
    return datasets.list_datasets(src, asking)


@router.get("/datasets/{dataset}", dependencies=access.sees(PUBLISH))
def list_versions(dataset: Name, src: Src, asking: Ask) -> Json:
    """Versions of a dataset, newest first."""
    return datasets.list_versions(src, dataset, asking)


@router.get("/datasets/{dataset}/{version}", dependencies=access.sees(PUBLISH))
def show_version(dataset: Name, version: Name, src: Src, count: bool = False) -> Json:
    """One version. `count`: count its changes, however many rows differ."""
    return datasets.show_version(src, dataset, version, count)


@router.get("/way/{dataset}/{version}", dependencies=access.sees(PUBLISH, SYNC, WARM))
def show_way(dataset: Name, version: Name, src: Src) -> Json:
    """What became of a version: published, synced, warmed, trained on."""
    return way.show_way(src, dataset, version)


@router.get("/jobs", dependencies=access.sees(WARM))
def list_jobs(src: Src, asking: Ask, idc: Filter = "", state: Filter = "", kind: Filter = "") -> Json:
    """Warm and free jobs of all IDCs."""
    return jobs.list_jobs(src, asking, idc, state, kind)


@router.get("/jobs/{idc}/{job}", dependencies=access.sees(WARM))
def show_job(idc: Name, job: Name, src: Src, asking: Ask, user: GetUserDep, state: Filter = "") -> Json:
    """One job with its nodes."""
    shown = jobs.show_job(src, idc, job, asking, state)
    return {**shown, "may_order": access.may_run(user, WARM)}


@router.post("/jobs/{idc}/{job}/{order}", dependencies=access.runs(WARM))
def order_job(idc: Name, job: Name, order: control.Order, src: Src) -> Json:
    """Cancel or resume a job."""
    return jobs.job_row(idc, control.give_order(src, idc, job, order))


@router.get("/nodes", dependencies=access.sees(WARM))
def list_nodes(
    src: Src, asking: Ask, idc: Filter = "", state: Filter = "", role: Filter = "", holds: Filter = ""
) -> Json:
    """Nodes of all IDCs."""
    return nodes.list_nodes(src, asking, idc, state, role, holds)


@router.get("/nodes/{idc}/{node}", dependencies=access.sees(WARM))
def show_node(idc: Name, node: Name, src: Src) -> Json:
    """One node: disks, versions, mounts."""
    return nodes.show_node(src, idc, node)


@router.get("/residency", dependencies=access.sees(WARM))
def list_residency(src: Src, asking: Ask, idc: Filter = "") -> Json:
    """Versions by how many nodes hold them."""
    return nodes.list_residency(src, asking, idc)


@router.get("/sync", dependencies=access.sees(PUBLISH, SYNC))
def list_links(src: Src) -> Json:
    """How far each destination is behind."""
    return synclag.list_links(src)


@router.get("/sync/{idc}", dependencies=access.sees(PUBLISH, SYNC))
def list_missing(idc: Name, src: Src, asking: Ask) -> Json:
    """Versions that a destination lacks."""
    return synclag.list_missing(src, idc, asking)


@router.get("/alerts", dependencies=access.sees(PUBLISH, WARM))
def list_alerts(src: Src) -> Json:
    """Troubles that were told and have not ended."""
    return alerts.list_open(src)


@router.get("/quarantine", dependencies=access.sees(INGEST))
def list_refused(src: Src, asking: Ask, user: GetUserDep, rule: Filter = "", vehicle: Filter = "") -> Json:
    """Refused drives."""
    shown = quarantine.list_refused(src, asking, rule, vehicle)
    return {**shown, "may_drive_again": access.may_run(user, INGEST)}


@router.get("/quarantine/{vehicle}/{drive}", dependencies=access.sees(INGEST))
def show_refused(vehicle: Name, drive: Name, src: Src, user: GetUserDep) -> Json:
    """Everything that was found in a refused drive."""
    return {**quarantine.show_refused(src, vehicle, drive), "may_drive_again": access.may_run(user, INGEST)}


@router.post("/quarantine/{vehicle}/{drive}/again", status_code=202, dependencies=access.runs(INGEST))
def drive_again(vehicle: Name, drive: Name, src: Src, user: GetUserDep) -> Json:
    """Start the ingest run of a refused drive."""
    return quarantine.drive_again(src, vehicle, drive, user.get_name())


@router.post("/quarantine/{vehicle}/{drive}/dismiss", status_code=202, dependencies=access.runs(INGEST))
def dismiss_drive(vehicle: Name, drive: Name, src: Src, user: GetUserDep) -> Json:
    """Dismiss a refused drive: it is no longer listed, and not tried again until its upload changes."""
    return quarantine.dismiss(src, vehicle, drive, user.get_name())
