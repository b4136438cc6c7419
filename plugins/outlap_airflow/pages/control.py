"""Control services of all IDCs, asked side by side: their nodes, their jobs, and orders to a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from cacheengine.client import Control, control_for
from cacheengine.errors import CacheError
from cacheengine.wire import Job
from lake.errors import NotFound
from outlap_airflow.pages.asking import Answer
from outlap_airflow.pages.sources import LIMIT_S, LIVE_S, Sources

MOST_JOBS = 500
Order = Literal["cancel", "resume"]


def nodes_of(
    src: Sources, idcs: Iterable[str] | None = None, dataset: str | None = None
) -> dict[str, Answer]:
    """IDC → list[NodeState], with the versions that they hold (of one dataset)."""
    topic = "nodes" if dataset is None else f"nodes that hold {dataset}"
    return _ask(src, topic, idcs, lambda control: control.nodes(dataset))


def brief_nodes_of(src: Sources) -> dict[str, Answer]:
    """IDC → list[NodeState] without versions."""
    return _ask(src, "nodes in brief", None, lambda control: control.nodes(brief=True))


def jobs_of(src: Sources) -> dict[str, Answer]:
    """IDC → list[Job], newest first, without their nodes and failures."""
    return _ask(src, "jobs", None, lambda control: control.jobs(MOST_JOBS, brief=True))


def _ask(
    src: Sources, topic: str, idcs: Iterable[str] | None, question: Callable[[Control], Any]
) -> dict[str, Answer]:
    def read(idc: str) -> Any:
        with control_for(src.config, idc) as control:
            return question(control)

    names = src.controls() if idcs is None else list(idcs)
    asked = {("the control service of", idc, topic): partial(read, idc) for idc in names}
    answers = src.memory.asked.ask(asked, LIVE_S, LIMIT_S)
    return {key[1]: answer for key, answer in answers.items()}


def job_of(src: Sources, idc: str, job: str) -> Job:
    """One job as of now. Raises NotFound, CacheError."""

    def read() -> Job:
        with control_for(src.config, idc) as control:
            return control.job(job)

    key = _job_key(idc, job)
    answer = src.memory.asked.ask({key: read}, LIVE_S, LIMIT_S)[key]
    if answer.value is None:
        problem = answer.problem or {"kind": "", "what": f"the job {job}", "why": "", "fix": ""}
        kind = NotFound if problem["kind"] == "NotFound" else CacheError
        raise kind(problem["what"], problem["why"], problem["fix"])
    found: Job = answer.value
    return found


def give_order(src: Sources, idc: str, job: str, order: Order) -> Job:
    """Cancel or resume a warm; the job that stands for it then. Raises NotFound, Conflict, ControlDown."""
    with control_for(src.config, idc) as control:
        found = control.cancel(job) if order == "cancel" else control.resume(job)
    src.memory.asked.forget(_job_key(idc, job))
    src.memory.asked.forget(("the control service of", idc, "jobs"))
    return found


def _job_key(idc: str, job: str) -> tuple[str, ...]:
    return ("the job", job, "of the control service of", idc)
