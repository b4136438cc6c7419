"""Operators that wait in the triggerer: a job of the cache engine, a moment in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lake.config import load_config
from outlap_airflow.faults import told
from outlap_airflow.triggers import JobTrigger

ENDED = ("done", "failed", "cancelled")


class CacheJob(BaseOperator):
    """Ask an IDC's control service to warm or free a version, and wait for the job without holding a worker.

    request: the fields of WarmRequest or FreeRequest, and `idc`. Returns the job. Fails, listing the paths, unless every
    byte is resident and verified on every chosen node (or released). Each try is a job of its own; what is resident
    already costs nothing.
    """

    template_fields: Sequence[str] = ("request",)
    ui_color = "#e6f4ea"

    def __init__(
        self,
        *,
        kind: Literal["warm", "free"],
        request: Any,
        wait_limit: timedelta = timedelta(hours=12),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind, self.request, self.wait_limit = kind, request, wait_limit

    def execute(self, context: Any) -> Any:
        job, idc = self._ask(context)
        if job["state"] in ENDED:
            return job_result(job)
        self.defer(trigger=JobTrigger(idc=idc, job=job["id"]), method_name="finish", timeout=self.wait_limit)

    @told()
    def _ask(self, context: Any) -> tuple[dict[str, Any], str]:
        from cacheengine.client import control_for
        from cacheengine.wire import FreeRequest, WarmRequest
        from outlap_airflow.triggers import short

        fields = dict(self.request)
        idc = fields.pop("idc")
        ti = context["ti"]
        # the same id twice is the same job: what is sent twice must not warm twice, a new try must not get an old failure
        fields["request_id"] = f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}/{ti.try_number}"
        with control_for(load_config(), idc) as control:
            if self.kind == "warm":
                job = control.warm(WarmRequest(**fields))
            else:
                job = control.free(FreeRequest(**fields))
        self.log.info("%s %s@%s in %s: job %s", self.kind, job.dataset, job.version[:12], idc, job.id)
        return short(job), idc

    def finish(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """Where the task goes on when the trigger has fired."""
        if "error" in event:
            raise (AirflowException if event.get("again") else AirflowFailException)(event["error"])
        return job_result(event["job"])


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


class WaitUntil(BaseOperator):
    """Wait for a moment (ISO 8601 with offset) without holding a worker; a moment that has passed is no wait."""

    template_fields: Sequence[str] = ("moment",)
    ui_color = "#eef"

    def __init__(self, *, moment: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.moment = moment

    def execute(self, context: Any) -> None:
        moment = datetime.fromisoformat(str(self.moment))
        if moment > datetime.now(UTC):
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="finish")

    def finish(self, context: Any, event: Any) -> None:
        """Where the task goes on when the moment has come."""
