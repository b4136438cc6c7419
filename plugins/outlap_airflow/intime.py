"""Warming against a deadline: told as soon as the ETA says that it will be late, and enough when the policy says so.

The trigger only asks and compares; alerts are sent by the operator, in a worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lake.errors import Explained
from outlap_airflow import alerts
from outlap_airflow.alerts import Alert
from outlap_airflow.hooks import areach
from outlap_airflow.operators import Warm
from outlap_airflow.triggers import ENDED, JobTrigger, _job, short

# One ETA says little: the first seconds of a warm are slow
LATE_LOOKS = 2


def is_late(job: Any, deadline_s: float, now_s: float) -> bool:
    """Whether the job will not have ended by then, as far as it can say; one that cannot is late once the time has come."""
    return job.state not in ENDED and now_s + (job.eta_s or 0.0) > deadline_s


def resident_percent(job: Mapping[str, Any]) -> float:
    """Of the bytes that the nodes of a job are to hold; the node that has most counts, for one of them will train."""
    shares = [
        100.0 * node["bytes_done"] / node["bytes_total"] if node["bytes_total"] else 100.0
        for node in job.get("nodes", ())
    ]
    whole = 100.0 * job["bytes_done"] / job["bytes_total"] if job["bytes_total"] else 100.0
    return max([whole, *shares])


class InTimeTrigger(BaseTrigger):
    """JobTrigger with a deadline (s since 1970).

    Events: as JobTrigger's, or {"late": job} once when it will be late, or {"enough": job} when the time has come and `percent` of the
    bytes are resident on a node.
    """

    def __init__(
        self,
        idc: str,
        job: str,
        deadline_s: float,
        percent: float = 100.0,
        told: bool = False,
        poll_s: float = 5.0,
        conn_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.idc, self.job, self.deadline_s, self.percent = idc, job, deadline_s, percent
        self.told, self.poll_s, self.conn_id = told, poll_s, conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("idc", "job", "deadline_s", "percent", "told", "poll_s", "conn_id")
        return ("outlap_airflow.intime.InTimeTrigger", {name: getattr(self, name) for name in names})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        waiting = JobTrigger(self.idc, self.job, wait_s=self.poll_s, conn_id=self.conn_id).run()
        ending = asyncio.ensure_future(anext(waiting))
        looks = 0
        try:
            while True:
                done, _ = await asyncio.wait([ending], timeout=self.poll_s)
                if done:
                    yield ending.result()
                    return
                try:
                    found = await areach(self.idc or None, self.conn_id)
                    job = await asyncio.to_thread(_job, found, self.job, 0.0)
                except Explained:
                    continue  # the other one says so, when it has lasted
                now_s, told = time.time(), short(job)
                if (
                    job.state not in ENDED
                    and now_s >= self.deadline_s
                    and resident_percent(told) >= self.percent
                ):
                    yield TriggerEvent({"enough": told, "idc": self.idc})  # type: ignore[no-untyped-call]
                    return
                looks = looks + 1 if is_late(job, self.deadline_s, now_s) else 0
                if looks >= LATE_LOOKS and not self.told:
                    yield TriggerEvent({"late": told, "idc": self.idc})  # type: ignore[no-untyped-call]
                    return
        finally:
            ending.cancel()

    async def on_kill(self) -> None:
        """A person failed or cleared the task: the job is ended as JobTrigger ends it."""
        await JobTrigger(self.idc, self.job, conn_id=self.conn_id).on_kill()


class WarmInTime(Warm):
    """Warm, by a deadline (ISO 8601; empty: none). It alerts when the ETA says late, before it is.

    percent: from the deadline on, so much of the bytes on a node is enough (100: only all of them); a warm that has failed with as much
    is enough too. The rest goes on being warmed, and is read on demand until then.
    """

    template_fields: Sequence[str] = (*Warm.template_fields, "deadline", "percent")

    def __init__(self, *, deadline: Any = "", percent: Any = 100, poll_s: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deadline, self.percent, self.poll_s = deadline, percent, poll_s

    def _moment(self) -> datetime | None:
        return datetime.fromisoformat(self.deadline) if self.deadline not in (None, "", "None") else None

    def execute(self, context: Any) -> Any:
        moment = self._moment()
        if moment is None:
            return super().execute(context)
        job, idc = self._begin(context)
        self._show(job, idc)
        if job["state"] in ENDED:
            return self._result(context, job)
        return self._wait_in_time(job["id"], idc, moment, told=False)

    def _wait_in_time(self, job: str, idc: str, moment: datetime, told: bool) -> Any:
        trigger = InTimeTrigger(
            idc=idc,
            job=job,
            deadline_s=moment.timestamp(),
            percent=float(self.percent),
            told=told,
            poll_s=self.poll_s,
            conn_id=self.outlap_conn_id or None,
        )
        self.defer(trigger=trigger, method_name="finish", timeout=self.wait_limit)

    def finish(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """Where the task goes on when the trigger has fired."""
        moment = self._moment()
        if "late" in event and moment is not None:
            alerts.tell(late_alert(context["ti"], event["late"], moment))
            self._wait_in_time(event["late"]["id"], event.get("idc", ""), moment, told=True)
        if "enough" in event:
            job = event["enough"]
            self.log.info(
                "%.1f %% resident are enough by now; the rest is read on demand", resident_percent(job)
            )
            return dict(job)
        return super().finish(context, event)

    def _result(self, context: Any, job: Mapping[str, Any]) -> dict[str, Any]:
        percent = resident_percent(job)
        if job["state"] == "failed" and float(self.percent) < 100 and percent >= float(self.percent):
            self.log.warning(
                "the warm failed with %.1f %% resident, which are enough: %s", percent, job.get("error")
            )
            return dict(job)
        return super()._result(context, job)


def late_by(planned: Mapping[str, Any], now: datetime) -> float:
    """Seconds by which the estimate misses the training time when warming begins now, or when it is to begin; 0 for in time."""
    if not planned["deadline"]:
        return 0.0
    begin = max(now, datetime.fromisoformat(planned["warm_at"]))
    deadline = datetime.fromisoformat(planned["deadline"])
    return max(0.0, (begin - deadline).total_seconds() + float(planned["estimate_s"]))


def tell_if_late(planned: Mapping[str, Any], ti: Any) -> bool:
    """Alert at once when the estimate alone says that the version cannot be warm in time; whether somebody was told."""
    late_s = late_by(planned, datetime.now(UTC))
    if not late_s:
        return False
    title = f"{ti.dag_id}: {planned['dataset']}@{planned['version'][:12]} will be warm about {late_s / 60:.0f} minutes late"
    text = (
        f"{title}, by the estimate of {planned['estimate_s']:.0f} s. Training is to start at {planned['deadline']}.\n"
        f"Next: give it more bandwidth or priority, a longer lead, or start later (run {ti.run_id})."
    )
    return alerts.tell(Alert(late_id(ti), title, text))


def late_id(ti: Any) -> str:
    return f"late/{ti.dag_id}/{ti.run_id}"


def late_alert(ti: Any, job: Mapping[str, Any], moment: datetime) -> Alert:
    """What people are told before it is late: by how much, and how far it is."""
    eta_s = job.get("eta_s")
    left_s = (moment - datetime.now(UTC)).total_seconds()
    when = (
        f"about {(eta_s - left_s) / 60:.0f} minutes late"
        if eta_s is not None
        else "late, nobody can say how much"
    )
    title = f"{ti.dag_id}: {job['dataset']}@{job['version'][:12]} will be warm {when}"
    text = (
        f"{title}. Training is to start at {moment.isoformat(timespec='minutes')}; {resident_percent(job):.0f} % are resident, "
        f"{job['bytes_done']:,} of {job['bytes_total']:,} bytes.\n"
        f"Next: see `outlap nodes` and job {job['id']}, give it more bandwidth or priority, or start later (run {ti.run_id})."
    )
    return Alert(late_id(ti), title, text)
