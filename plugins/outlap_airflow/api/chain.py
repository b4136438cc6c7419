"""A publish and what followed it, in one answer: its run, the sync run of each IDC, and the warm jobs of those.

Airflow knows which run an event started, so the chain is followed by events and not by guessing: another publish of the same
version has a chain of its own. Progress stands in the task's store (a sync) and in the control service (a warm).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from airflow.models.asset import AssetEvent, AssetPartitionDagRun
from airflow.models.dagrun import DagRun
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from lake.config import Config, load_config
from lake.errors import Explained, NotFound
from outlap_airflow import causes, hooks
from outlap_airflow.api.access import PUBLISH, SYNC, WARM
from outlap_airflow.api.models import IdcStatus, PublishRun, PublishStatus, Stage, Step
from outlap_airflow.assets import parse_synced
from outlap_airflow.settings import destinations

CANCELLED = "cancelled by "
JOB_TIMEOUT_S = 5.0
ENDED = ("success", "failed")


@dataclass(frozen=True)
class Run:
    """A run of Airflow. kept: what its tasks keep in their stores, by (task, key); failed: names of its tasks that failed."""

    dag: str
    id: str
    key: str | None
    state: str
    at_ns: int | None
    conf: Mapping[str, Any]
    note: str | None
    kept: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    failed: Sequence[str] = ()


@dataclass(frozen=True)
class Chain:
    """A publish, what it returned, and the runs that followed. pending: keys whose run Airflow has not made yet."""

    publish: Run
    made: Mapping[str, Any]
    syncs: Sequence[Run]
    warms: Sequence[Run]
    pending: Sequence[str]

    def runs(self) -> list[Run]:
        return [self.publish, *self.syncs, *self.warms]


def read_chain(run_id: str) -> Chain:
    """Raises NotFound."""
    with create_session() as session:
        found = session.scalar(select(DagRun).where(DagRun.dag_id == PUBLISH, DagRun.run_id == run_id))
        if found is None:
            raise NotFound(f"the publish {run_id!r}", "there is no such run", "use the run_id that POST gave")
        publish = _run(session, found)
        made = returned(session, [run_id]).get(run_id, {})
        syncs = _following(session, PUBLISH, [run_id], SYNC)
        warms = _following(session, SYNC, [run.id for run in syncs], WARM)
        return Chain(publish, made, syncs, warms, _pending(session, made))


def returned(session: Any, run_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What the task `publish` of each run returned, as far as they have."""
    query = select(XComModel).where(
        XComModel.dag_id == PUBLISH,
        XComModel.task_id == "publish",
        XComModel.key == "return_value",
        XComModel.run_id.in_(run_ids),
    )
    found = {}
    for row in session.scalars(query):
        value = XComModel.deserialize_value(row)
        if isinstance(value, Mapping):
            found[row.run_id] = value
    return found


def _following(session: Any, source: str, run_ids: Sequence[str], target: str) -> list[Run]:
    """Runs of `target` that events of these runs started; of several for one key the newest."""
    if not run_ids:
        return []
    query = (
        select(DagRun)
        .join(AssetEvent.created_dagruns)
        .where(AssetEvent.source_dag_id == source, AssetEvent.source_run_id.in_(run_ids))
        .where(DagRun.dag_id == target)
        .order_by(DagRun.id)
        .distinct()
    )
    newest = {found.partition_key: found for found in session.scalars(query)}
    return [_run(session, found) for found in newest.values()]


def plain_run(found: Any) -> Run:
    """A run without what its tasks keep."""
    began = found.queued_at or found.start_date
    at_ns = None if began is None else int(began.timestamp() * 1000) * 1_000_000
    return Run(
        found.dag_id,
        found.run_id,
        found.partition_key,
        str(found.state),
        at_ns,
        found.conf or {},
        found.note,
    )


def _run(session: Any, found: Any) -> Run:
    kept = select(TaskStateStoreModel).where(TaskStateStoreModel.dag_run_id == found.id)
    failed = select(TaskInstance.task_id).where(
        TaskInstance.dag_id == found.dag_id,
        TaskInstance.run_id == found.run_id,
        TaskInstance.state == "failed",
    )
    return replace(
        plain_run(found),
        kept={(row.task_id, row.key): _value(row.value) for row in session.scalars(kept)},
        failed=sorted(set(session.scalars(failed))),
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # another backend keeps it elsewhere: then there is no progress to show
        return None


def _pending(session: Any, made: Mapping[str, Any]) -> list[str]:
    if "version" not in made:
        return []
    begins = f"{made['dataset']}@{made['version']}|"
    query = select(AssetPartitionDagRun.partition_key).where(
        AssetPartitionDagRun.created_dag_run_id.is_(None),
        AssetPartitionDagRun.target_dag_id.in_((SYNC, WARM)),
        AssetPartitionDagRun.partition_key.startswith(begins, autoescape=True),
    )
    return sorted(set(session.scalars(query)))


# --- from runs to an answer


def describe(run_id: str) -> PublishStatus:
    """Raises NotFound."""
    return status_of(read_chain(run_id), load_config())


def head_of(run: Run, made: Mapping[str, Any]) -> PublishRun:
    """The publish itself."""
    shown = {name: made.get(name) for name in ("tag", "version", "files", "bytes", "is_new")}
    dataset = made.get("dataset") or run.conf.get("dataset") or ""
    return PublishRun(run_id=run.id, dataset=str(dataset), state=run.state, at_ns=run.at_ns, **shown)


def status_of(chain: Chain, config: Config) -> PublishStatus:
    """The whole answer; control services are asked at once, each for a few seconds at most."""
    idcs = _idcs(chain, config)
    told = jobs_of(chain.warms)
    shown = [_idc_status(idc, chain, config, told) for idc in idcs]
    note = chain.publish.note or ""
    cancelled = note.removeprefix(CANCELLED) if note.startswith(CANCELLED) else None
    steps = [step for one in shown for step in (one.sync, one.warm) if step is not None]
    etas = [step.eta_s for step in steps if step.eta_s is not None and step.state == "running"]
    errors = [_failure(chain.publish), *(step.error for step in steps if step.state == "failed")]
    return PublishStatus(
        **head_of(chain.publish, chain.made).model_dump(),
        stage="cancelled" if cancelled is not None else _stage(chain.publish, shown),
        eta_s=max(etas, default=None),
        error=next((error for error in errors if error), None),
        cancelled_by=cancelled,
        idcs=shown,
    )


def _idcs(chain: Chain, config: Config) -> list[str]:
    """The destinations of this publish: of its runs, and those that the settings name while they are to come."""
    begun = {parse_synced(run.key).idc for run in (*chain.syncs, *chain.warms) if run.key}
    announced = "version" in chain.made and chain.publish.state not in ENDED
    coming = announced or bool(chain.pending) or (not begun and chain.publish.state not in ENDED)
    return sorted(begun | (set(destinations(config)) if coming else set()))


def _idc_status(idc: str, chain: Chain, config: Config, told: Mapping[str, Mapping[str, Any]]) -> IdcStatus:
    sync = next((run for run in chain.syncs if run.key and parse_synced(run.key).idc == idc), None)
    warm = next((run for run in chain.warms if run.key and parse_synced(run.key).idc == idc), None)
    has_group = idc in config.idcs and config.idcs[idc].control is not None
    step = None
    if warm is not None or has_group:
        step = Step() if warm is None else warm_step(warm, told.get(warm.id, {}))
    return IdcStatus(idc=idc, sync=Step() if sync is None else _sync_step(sync, idc), warm=step)


def _sync_step(run: Run, idc: str) -> Step:
    progress = run.kept.get((f"copy_to_{idc}", "progress")) or {}
    done, total = progress.get("done"), progress.get("total")
    rate = eta = None
    if run.state == "running" and total and done:
        spent = max((progress["at_ns"] - progress["began_ns"]) / 1e9, 1e-3)
        rate = done / spent
        eta = (total - done) / rate
    return Step(
        run_id=run.id,
        state=run.state,  # type: ignore[arg-type]
        bytes_done=done,
        bytes_total=total,
        rate_bps=rate,
        eta_s=eta,
        error=_failure(run),
    )


def warm_step(run: Run, job: Mapping[str, Any]) -> Step:
    """job: as the control service tells it, or {"error": why it could not be asked}."""
    kept: Mapping[str, Any] = next(
        (value for (_, key), value in run.kept.items() if key == "job" and value), {}
    )
    names = ("files_done", "files_total", "bytes_done", "bytes_total", "rate_bps", "eta_s")
    known = {name: job.get(name) for name in names}
    return Step(
        run_id=run.id,
        state=run.state,  # type: ignore[arg-type]
        job=kept.get("id"),
        job_state=job.get("state"),
        error=_failure(run, job.get("error")) if run.state == "failed" else job.get("unknown"),
        **known,
    )


def jobs_of(warms: Iterable[Run]) -> dict[str, Mapping[str, Any]]:
    """run id → its job, or {"unknown": why it could not be asked}."""
    asked = [
        (run.id, value)
        for run in warms
        for (_, key), value in run.kept.items()
        if key == "job" and isinstance(value, Mapping)
    ]
    if not asked:
        return {}
    with ThreadPoolExecutor(min(8, len(asked))) as pool:
        return dict(
            zip([run for run, _ in asked], pool.map(_job, [value for _, value in asked]), strict=True)
        )


def _job(value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        with hooks.open_control(hooks.reach(str(value["idc"]) or None, None)) as control:
            job = control.job(str(value["id"]))
    except Explained as error:
        return {"unknown": str(error)}
    return job.model_dump(mode="json", exclude={"nodes", "failures"})


def _failure(run: Run, why: str | None = None) -> str | None:
    if run.state != "failed":
        return None
    tasks = ", ".join(run.failed) or "it"
    known = [str(value) for (_, key), value in sorted(run.kept.items()) if key == causes.KEY and value]
    why = why or "; ".join(known)
    return f"{run.dag} {run.id}: {tasks} failed" + (f": {why}" if why else "; its log says why")


def _stage(publish: Run, idcs: Sequence[IdcStatus]) -> Stage:
    steps = [step for one in idcs for step in (one.sync, one.warm) if step is not None]
    if publish.state == "failed" or any(step.state == "failed" for step in steps):
        return "failed"
    if publish.state == "queued":
        return "queued"
    if publish.state != "success":
        return "publishing"
    if any(one.sync.state != "success" for one in idcs):
        return "syncing"
    if any(one.warm is not None and one.warm.state != "success" for one in idcs):
        return "warming"
    return "done"
