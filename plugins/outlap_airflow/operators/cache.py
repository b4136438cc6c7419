"""Warm and Free: a job of an IDC's cache group, waited for without holding a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lake.config import load_config
from outlap_airflow import hooks
from outlap_airflow.faults import told
from outlap_airflow.links import LINKS, show
from outlap_airflow.openlineage import facets_of
from outlap_airflow.operators import resume
from outlap_airflow.settings import airflow_settings
from outlap_airflow.triggers import ENDED, JobTrigger, short


class _CacheJob(BaseOperator):
    """What Warm and Free share. Returns the job. Fails, listing the paths, when it is not done."""

    template_fields: Sequence[str] = ("dataset", "ref", "idc", "nodes", "files", "outlap_conn_id")
    operator_extra_links = LINKS
    kind: ClassVar[Literal["warm", "free"]]

    def __init__(
        self,
        *,
        dataset: str,
        ref: str = "latest",
        idc: str | None = None,
        nodes: str = "all",
        files: Sequence[str] | None = None,
        outlap_conn_id: str | None = None,
        wait_limit: timedelta = timedelta(hours=12),
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset, self.ref, self.idc, self.nodes, self.files = dataset, ref, idc, nodes, files
        self.outlap_conn_id, self.wait_limit, self.deferrable = outlap_conn_id, wait_limit, deferrable

    def fields(self) -> dict[str, Any]:
        """Fields of the request; what is not asked for is left out."""
        found: dict[str, Any] = {"dataset": self.dataset, "ref": self.ref, "nodes": self.nodes or "all"}
        if self.files:
            found["files"] = list(self.files)
        return found

    def execute(self, context: Any) -> Any:
        job, idc = self._begin(context)
        self._show(job, idc)
        if job["state"] in ENDED:
            return self._result(context, job)
        if not (self.deferrable and airflow_settings(load_config()).defer):
            return self._result(context, self._wait(job["id"]))
        trigger = JobTrigger(idc=idc, job=job["id"], conn_id=self.outlap_conn_id or None)
        self.defer(trigger=trigger, method_name="finish", timeout=self.wait_limit)

    @told()
    def _begin(self, context: Any) -> tuple[dict[str, Any], str]:
        from cacheengine.wire import FreeRequest, WarmRequest

        found = hooks.reach(self.idc or None, self.outlap_conn_id or None)
        fields = self.fields()
        with hooks.open_control(found) as control:

            def ask(request_id: str) -> Any:
                if self.kind == "warm":
                    return control.warm(WarmRequest(**fields, request_id=request_id))
                return control.free(FreeRequest(**fields, request_id=request_id))

            job = resume.begin(ask, context, found.idc)
        self.log.info("%s %s@%s in %s: job %s", self.kind, job.dataset, job.version[:12], found.idc, job.id)
        return short(job), found.idc

    @told()
    def _wait(self, job: str) -> dict[str, Any]:
        with hooks.open_control(hooks.reach(self.idc or None, self.outlap_conn_id or None)) as control:
            return short(control.wait(job, timeout_s=self.wait_limit.total_seconds()))

    def finish(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """Where the task goes on when the trigger has fired."""
        if "error" in event:
            raise (AirflowException if event.get("again") else AirflowFailException)(event["error"])
        self._show(event["job"], event.get("idc", ""))
        return self._result(context, event["job"])

    def _show(self, job: Mapping[str, Any], idc: str) -> None:
        show(self, dataset=job["dataset"], version=job["version"], tag=job["tag"], idc=idc, job=job["id"])

    def _result(self, context: Any, job: Mapping[str, Any]) -> dict[str, Any]:
        if job["state"] in ENDED:
            resume.close(context)
        return job_result(job)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Which version became resident where, for OpenLineage when its provider is installed."""
        return facets_of(self)


class Warm(_CacheJob):
    """Make `dataset@ref` (or `files` of it) resident and verified on the nodes that `nodes` selects, in one IDC.

    idc: by the settings, default ours; outlap_conn_id: an Airflow connection instead. pin: keep it from eviction. priority and
    bandwidth_bps (per node): against other warms. placement, copies: `spread` holds each pack on so many of the nodes. A try that
    finds the job of an earlier one running waits for that. wait_limit: when to give up waiting. deferrable: False holds the
    worker, for an Airflow without a triggerer; so does `[airflow] defer = false` of the worker's settings.
    """

    template_fields: Sequence[str] = (*_CacheJob.template_fields, "priority")
    ui_color = "#e6f4ea"
    kind = "warm"

    def __init__(
        self,
        *,
        pin: bool = False,
        priority: int | str = 0,
        bandwidth_bps: int | None = None,
        placement: Literal["all", "spread"] = "all",
        copies: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pin, self.priority, self.bandwidth_bps = pin, priority, bandwidth_bps
        self.placement, self.copies = placement, copies

    def fields(self) -> dict[str, Any]:
        asked = {"pin": self.pin, "priority": int(self.priority or 0), "bandwidth_bps": self.bandwidth_bps}
        found = {**super().fields(), **{name: value for name, value in asked.items() if value}}
        return (
            found
            if self.placement == "all"
            else {**found, "placement": self.placement, "copies": self.copies}
        )


class Free(_CacheJob):
    """Release what `dataset@ref` (or `files` of it) holds on the nodes of one IDC; the version stays in every store.

    force: also where it is pinned; without it a pinned version fails the task, which names who pinned it.
    """

    template_fields: Sequence[str] = (*_CacheJob.template_fields, "force")
    ui_color = "#fdf2e9"
    kind = "free"

    def __init__(self, *, force: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.force = force

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), **({"force": True} if str(self.force).lower() == "true" else {})}


def job_result(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job when it is done. Raises AirflowException (tried again) with the failures when it is not."""
    if job["state"] == "done":
        return dict(job)
    failures = [f"{item['path']}: {item['cause']}" for item in job["failures"]]
    more = job.get("failures_total", len(failures)) - len(failures)
    lines = failures + ([f"and {more} more: see the job in the control service"] if more > 0 else [])
    raise AirflowException(
        f"{job['kind']} {job['dataset']}@{job['version'][:12]} {job['state']}: {job['files_done']} of {job['files_total']} files"
        + (f", {job['error']}" if job.get("error") else "")
        + "".join(f"\n  {line}" for line in lines)
        + f"\nNext: see `outlap nodes` and the agents' logs; job {job['id']}"
    )
