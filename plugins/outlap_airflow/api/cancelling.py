"""Cancel a publish and what followed it: its runs end as failed, with a note of who did it, and the warm jobs stop.

The version stays: what was published is never taken back. A run that Airflow is just about to make is waited for, a few seconds.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from airflow.api_fastapi.common.dagbag import create_dag_bag, get_dag_for_run
from airflow.api_fastapi.core_api.datamodels.dag_run import DagRunMutableStates
from airflow.api_fastapi.core_api.services.public.dag_run import patch_dag_run_note, patch_dag_run_state
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from lake.errors import Explained
from outlap_airflow import hooks
from outlap_airflow.api.chain import CANCELLED, ENDED, Chain, Run, read_chain
from outlap_airflow.triggers import cancel

PENDING_S = 5.0
log = logging.getLogger(__name__)


def cancel_publish(run_id: str, user: Any) -> None:
    """Raises NotFound. Harmless to repeat; what has ended stays as it ended."""
    until = time.monotonic() + PENDING_S
    while True:
        chain = read_chain(run_id)
        if not (chain.pending or _is_open(chain)):
            return
        _end_runs(chain, user)
        _end_jobs(chain)
        if time.monotonic() > until:
            return
        # a run that ended in this moment may have announced, and Airflow may be about to make one: look again
        time.sleep(0.25)


def _is_open(chain: Chain) -> bool:
    return any(run.state not in ENDED for run in chain.runs())


def _end_runs(chain: Chain, user: Any) -> None:
    bag = create_dag_bag()
    for run in chain.runs():
        is_open = run.state not in ENDED
        if not is_open and run is not chain.publish:
            continue
        with create_session() as session:
            found = session.scalar(select(DagRun).where(DagRun.dag_id == run.dag, DagRun.run_id == run.id))
            if found is None:
                continue
            if run is not chain.publish or not (found.note or "").startswith(CANCELLED):
                patch_dag_run_note(dag_run=found, note=f"{CANCELLED}{user.get_name()}", user=user)
            if is_open:
                dag = get_dag_for_run(bag, found, session=session)
                patch_dag_run_state(dag=dag, dag_run=found, state=DagRunMutableStates.FAILED, session=session)
            log.info("cancelled %s %s for %s", run.dag, run.id, user.get_name())


def _end_jobs(chain: Chain) -> None:
    """The triggerer stops the job of a task that was waiting; this does it at once, and where there is no triggerer."""
    for run in chain.warms:
        for value in _open_jobs(run):
            try:
                cancel(hooks.reach(str(value["idc"]) or None, None), str(value["id"]))
            except Explained as error:
                log.warning("the job %s in %s is not cancelled: %s", value["id"], value["idc"], error)


def _open_jobs(run: Run) -> list[dict[str, Any]]:
    return [value for (_, key), value in run.kept.items() if key == "job" and value and value.get("open")]
