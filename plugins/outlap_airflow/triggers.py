"""Waiting without holding a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lake.config import load_config
from lake.errors import Explained

# Failures in an event travel through Airflow's database; the control service keeps the whole list
MOST_FAILURES = 100


class JobTrigger(BaseTrigger):
    """Waits for a warm or free job of an IDC's control service to end, however it ends.

    Only names are kept in Airflow's database: address and token are read from the settings where the trigger runs. The
    event is `{"job": Job as JSON}` or, when the service forgot the job, refused us, or stayed away for `patience_s`,
    `{"error": text, "again": whether to try again}`.
    """

    def __init__(self, idc: str, job: str, wait_s: float = 20.0, patience_s: float = 600.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.idc, self.job, self.wait_s, self.patience_s = idc, job, wait_s, patience_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "outlap_airflow.triggers.JobTrigger",
            {"idc": self.idc, "job": self.job, "wait_s": self.wait_s, "patience_s": self.patience_s},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:

        from cacheengine.errors import ControlDown

        heard = time.monotonic()
        pause = 0.5
        while True:
            try:
                # the client blocks, so it gets a thread: one blocked coroutine would stall every trigger of the process
                job = await asyncio.to_thread(_job, self.idc, self.job, self.wait_s)
            except ControlDown as error:
                if time.monotonic() - heard > self.patience_s:
                    yield TriggerEvent({"error": str(error), "again": True})  # type: ignore[no-untyped-call]
                    return
                self.log.warning("%s; asking again in %.1f s", error, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 15.0)
                continue
            except Explained as error:
                yield TriggerEvent({"error": str(error), "again": False})  # type: ignore[no-untyped-call]
                return
            heard, pause = time.monotonic(), 0.5
            self.log.info(
                "%s %s@%s in %s: %s, %d of %d files, %d of %d bytes, eta %s s",
                *(job.kind, job.dataset, job.version[:12], self.idc, job.state),
                *(job.files_done, job.files_total, job.bytes_done, job.bytes_total),
                "?" if job.eta_s is None else round(job.eta_s),
            )
            if job.state in ("done", "failed", "cancelled"):
                yield TriggerEvent({"job": short(job)})  # type: ignore[no-untyped-call]
                return


def _job(idc: str, job: str, wait_s: float) -> Any:
    from cacheengine.client import control_for

    with control_for(load_config(), idc) as control:
        return control.job(job, wait_s)


def short(job: Any) -> dict[str, Any]:
    """A job as JSON with the first failures only, and `failures_total`."""
    told = job.model_dump(mode="json")
    told["failures_total"] = len(job.failures)
    told["failures"] = told["failures"][:MOST_FAILURES]
    told["nodes"] = [{**node, "failures": []} for node in told["nodes"]]
    return dict(told)
