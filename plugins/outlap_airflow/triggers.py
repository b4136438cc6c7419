"""Waiting without holding a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lake.errors import Conflict, Explained
from outlap_airflow.hooks import Reach, areach, open_control

ENDED = ("done", "failed", "cancelled")
# Failures in an event travel through Airflow's database; the control service keeps the whole list
MOST_FAILURES = 100


class JobTrigger(BaseTrigger):
    """Waits for a warm or free job of an IDC's control service to end, however it ends.

    Only names are kept in Airflow's database: address and token are read from the connection, or the settings, where the trigger
    runs. The event is `{"job": Job as JSON, "idc"}` or, when the service forgot the job, refused us, or stayed away for
    `patience_s`, `{"error": text, "again": whether to try again}`. When a person ends the task, the job is cancelled.
    """

    def __init__(
        self, idc: str, job: str, wait_s: float = 20.0, patience_s: float = 600.0, conn_id: str | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.idc, self.job, self.wait_s, self.patience_s, self.conn_id = idc, job, wait_s, patience_s, conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        fields = {"idc": self.idc, "job": self.job, "wait_s": self.wait_s, "patience_s": self.patience_s}
        return ("outlap_airflow.triggers.JobTrigger", {**fields, "conn_id": self.conn_id})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from cacheengine.errors import ControlDown

        heard = time.monotonic()
        pause = 0.5
        while True:
            try:
                found = await areach(self.idc or None, self.conn_id)
                # the client blocks, so it gets a thread: one blocked coroutine would stall every trigger of the process
                job = await asyncio.to_thread(_job, found, self.job, self.wait_s)
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
            if job.state in ENDED:
                yield TriggerEvent({"job": short(job), "idc": self.idc})  # type: ignore[no-untyped-call]
                return

    async def on_kill(self) -> None:
        """A person failed or cleared the task: what nobody waits for any more is not warmed on."""
        found = await areach(self.idc or None, self.conn_id)
        await asyncio.to_thread(cancel, found, self.job)


class ResidencyTrigger(BaseTrigger):
    """Asks every `poll_s` how much of a version nodes hold, until enough do. The event is what `residency` gives, or an error.

    Fields: as ResidencySensor's.
    """

    def __init__(
        self,
        idc: str,
        request: dict[str, Any],
        at_least: float,
        on: int | None,
        poll_s: float = 10.0,
        patience_s: float = 600.0,
        conn_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.idc, self.request, self.at_least, self.on = idc, request, at_least, on
        self.poll_s, self.patience_s, self.conn_id = poll_s, patience_s, conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("idc", "request", "at_least", "on", "poll_s", "patience_s", "conn_id")
        return ("outlap_airflow.triggers.ResidencyTrigger", {name: getattr(self, name) for name in names})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from cacheengine.errors import ControlDown

        heard = time.monotonic()
        while True:
            try:
                found = await areach(self.idc or None, self.conn_id)
                seen = await asyncio.to_thread(residency, found, self.request, self.at_least)
            except ControlDown as error:
                if time.monotonic() - heard > self.patience_s:
                    yield TriggerEvent({"error": str(error), "again": True})  # type: ignore[no-untyped-call]
                    return
                self.log.warning("%s; asking again in %.1f s", error, self.poll_s)
            except Explained as error:
                yield TriggerEvent({"error": str(error), "again": False})  # type: ignore[no-untyped-call]
                return
            else:
                heard = time.monotonic()
                self.log.info("%s: warm on %s", seen["dataset"], ", ".join(seen["warm"]) or "no node yet")
                if enough(seen, self.on):
                    yield TriggerEvent(seen)  # type: ignore[no-untyped-call]
                    return
            await asyncio.sleep(self.poll_s)


def residency(found: Reach, request: dict[str, Any], at_least: float) -> dict[str, Any]:
    """dataset, version, nodes {name: share of files resident and verified, 0 to 1}, warm: names with `at_least` of it.

    Raises NotFound, Refused, ControlDown.
    """
    from cacheengine.wire import WarmRequest

    with open_control(found) as control:
        seen = control.estimate(WarmRequest(**request))
    shares = {
        node.node: 1.0 - node.files_missing / seen.files if seen.files else 1.0
        for node in sorted(seen.nodes, key=lambda node: node.node)
    }
    warm = [name for name, share in shares.items() if share >= at_least]
    return {"dataset": seen.dataset, "version": seen.version, "nodes": shares, "warm": warm}


def enough(seen: dict[str, Any], on: int | None) -> bool:
    """on: how many nodes are enough, None: every one that was asked about (and there is one)."""
    return len(seen["warm"]) >= (on if on is not None else max(1, len(seen["nodes"])))


def cancel(found: Reach, job: str) -> None:
    """End a warm that still runs; one that is over is left as it is, and a free goes on. Raises ControlDown, Unauthorised."""
    with open_control(found) as control, suppress(Conflict):
        control.cancel(job)


def _job(found: Reach, job: str, wait_s: float) -> Any:
    with open_control(found) as control:
        return control.job(job, wait_s)


def short(job: Any) -> dict[str, Any]:
    """A job as JSON with the first failures only, and `failures_total`."""
    told = job.model_dump(mode="json")
    told["failures_total"] = len(job.failures)
    told["failures"] = told["failures"][:MOST_FAILURES]
    told["nodes"] = [{**node, "failures": []} for node in told["nodes"]]
    return dict(told)
