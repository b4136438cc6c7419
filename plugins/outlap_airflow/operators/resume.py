"""The job of a task, across its tries: one that still runs is taken up again, a new one begins only when the old one has failed.

A task's store (`task_state_store`) keeps `job`: {id, idc, round, open}. The request id names task and round, so that a worker that is
killed between asking and keeping the answer asks for the same job again. Tries share rounds: a round ends with its job.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lake.errors import Conflict

KEY = "job"
FAILED = ("failed", "cancelled")


def request_id(ti: Any, number: int) -> str:
    return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}/{number}"


def begin(ask: Callable[[str], Any], context: Any, idc: str) -> Any:
    """The job that `ask(request id)` gives: of an earlier try where that has not failed, else a new one."""
    ti, store = context["ti"], context.get("task_state_store")
    if store is None:  # nothing is kept between tries: each has a job of its own
        return ask(request_id(ti, ti.try_number))
    known = store.get(KEY) or {}
    number = int(known.get("round", 1)) + (0 if known.get("open", True) else 1)
    try:
        job = ask(request_id(ti, number))
        stale = job.id == known.get("id") and job.state in FAILED
    except Conflict:  # the task was cleared and asks for something else now
        if not known:
            raise
        stale = True
    if stale:
        number += 1
        job = ask(request_id(ti, number))
    store.set(KEY, {"id": job.id, "idc": idc, "round": number, "open": True})
    return job


def close(context: Any) -> None:
    """The round is over: a later try, or a clear, begins a new job. Its id stays, for whoever asks how it went."""
    store = context.get("task_state_store")
    known = store.get(KEY) if store is not None else None
    if known:
        store.set(KEY, {**known, "open": False})
