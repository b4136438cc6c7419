"""Jobs in the database: begun, looked at, ended once. What a job's state is, cacheengine.control.jobs decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, insert, select, update

from cacheengine.control import board, changes, desired, metrics, tables
from cacheengine.control.jobs import ENDED, Heard, Spec, judge
from cacheengine.control.service import Service
from cacheengine.wire import Job
from lake.canonical import blake3_hex
from lake.errors import Conflict, NotFound


def _key(request_id: str | None) -> str | None:
    """Request ids are kept as hashes: they may be long, and every database indexes 64 letters."""
    return None if request_id is None else blake3_hex(request_id.encode("utf-8", "surrogatepass"))


def insert_job(
    connection: Connection, spec: Spec, request_id: str | None, request: str, revision: int
) -> None:
    """`request`: the digest of what was asked, to tell a repeated request from another one under the same id. `revision`: of jobs."""
    connection.execute(
        insert(tables.jobs).values(
            id=spec.id,
            request_id=_key(request_id),
            request=request,
            dataset=spec.dataset,
            active=True,
            spec=spec.model_dump_json(),
            created_ns=spec.created_ns,
            revision=revision,
        )
    )
    if spec.nodes:
        rows = [{"job": spec.id, "node": chosen.node} for chosen in spec.nodes]
        connection.execute(insert(tables.job_nodes), rows)


def find_request(connection: Connection, request_id: str | None, request: str) -> str | None:
    """The job of a request id. Raises Conflict when it was another request."""
    if request_id is None:
        return None
    c = tables.jobs.c
    found = connection.execute(select(c.id, c.request).where(c.request_id == _key(request_id))).first()
    if found is None:
        return None
    if found.request != request:
        raise Conflict(
            f"the request id {request_id[:80]!r}",
            f"it stands for another request (job {found.id})",
            "use a new id",
        )
    return str(found.id)


def _end(connection: Connection, job: Job, revision: int) -> bool:
    """Keep the last state of a job, once: of several who saw it end, the first one's word stays."""
    c = tables.jobs.c
    changed = connection.execute(
        update(tables.jobs)
        .where((c.id == job.id) & c.active)
        .values(active=False, ended=job.model_dump_json(), revision=revision)
    )
    if changed.rowcount:
        metrics.jobs_ended.labels(job.kind, job.state).inc()
    return bool(changed.rowcount)


def read(connection: Connection, job_id: str) -> tuple[Spec, Job | None]:
    """What a job is, and how it ended when it has. Raises NotFound."""
    c = tables.jobs.c
    found = connection.execute(select(c.spec, c.ended).where(c.id == job_id)).first()
    if found is None:
        raise NotFound(
            f"the job {job_id[:64]!r}", "there is none of that id here", "list them: `outlap jobs`"
        )
    ended = None if found.ended is None else Job.model_validate_json(found.ended)
    return Spec.model_validate_json(found.spec), ended


def look(service: Service, job_id: str) -> Job:
    """A job as of now; one that has ended just now is kept as ended. Raises NotFound."""
    with service.engine.connect() as connection:
        spec, ended = read(connection, job_id)
    return ended if ended is not None else judged(service, spec)


def judged(service: Service, spec: Spec, heard: Mapping[str, Heard] | None = None) -> Job:
    """A job that had not ended, as of now (by these heartbeats); when it has by now, that is kept."""
    if heard is None:
        heard = board.heard_of(service.board, spec)
    job = judge(spec, heard, service.now_ns(), service.limits)
    if job.state not in ENDED:
        return job
    with tables.writing(service.engine) as connection:
        revision = changes.touch(connection, "jobs")["jobs"]
        if _end(connection, job, revision):
            return job
        return read(connection, spec.id)[1] or job


def active_specs(connection: Connection, after: int) -> list[Spec]:
    """Jobs that have not ended and that changed after a revision."""
    c = tables.jobs.c
    found = connection.execute(select(c.spec).where(c.active & (c.revision > after))).scalars()
    return [Spec.model_validate_json(text) for text in found]


def active_ids(connection: Connection) -> set[str]:
    """Jobs that have not ended."""
    return set(connection.execute(select(tables.jobs.c.id).where(tables.jobs.c.active)).scalars())


def newest(connection: Connection, limit: int) -> Sequence[tuple[str, str]]:
    """(id, dataset), newest first."""
    c = tables.jobs.c
    found = connection.execute(select(c.id, c.dataset).order_by(c.created_ns.desc(), c.id).limit(limit))
    return [(row.id, row.dataset) for row in found]


def end_opposed(service: Service, connection: Connection, newer: Spec, cause: str, revision: int) -> None:
    """End active jobs that want the opposite of a newer one: same version, a list in common, a node in common."""
    c = tables.jobs.c
    found = connection.execute(select(c.spec).where(c.active & (c.dataset == newer.dataset))).scalars().all()
    for spec in [Spec.model_validate_json(text) for text in found]:
        if _opposed(newer, spec):
            end_early(service, connection, spec, cause, revision)


def end_early(service: Service, connection: Connection, spec: Spec, cause: str, revision: int) -> Job:
    """End an active job as cancelled, unless it was over by itself; how it ended."""
    heard = board.heard_of(service.board, spec)
    now_ns = service.now_ns()
    job = judge(spec, heard, now_ns, service.limits)
    if job.state not in ENDED:
        job = job.model_copy(update={"state": "cancelled", "ended_ns": now_ns, "eta_s": None, "error": cause})
    _end(connection, job, revision)
    return job


def _opposed(one: Spec, other: Spec) -> bool:
    if one.kind == other.kind or one.version != other.version:
        return False
    free, warm = (one, other) if one.kind == "free" else (other, one)
    common = free.released is None or warm.list_id in free.released
    return common and not {c.node for c in one.nodes}.isdisjoint(c.node for c in other.nodes)


def prune(connection: Connection, before_ns: int) -> None:
    """Forget jobs that ended long ago, what was cancelled and never gone on with, and lists that nothing names."""
    revision = changes.touch(connection, "nodes")["nodes"]
    jobs, d = tables.jobs.c, tables.desired.c
    old = select(jobs.id).where(~jobs.active & (jobs.created_ns < before_ns))
    connection.execute(delete(tables.job_nodes).where(tables.job_nodes.c.job.in_(old)))
    connection.execute(delete(tables.jobs).where(~jobs.active & (jobs.created_ns < before_ns)))
    left = d.paused & (d.since_ns < before_ns)
    nodes = connection.execute(select(d.node).where(left).distinct()).scalars().all()
    connection.execute(delete(tables.desired).where(left))
    if nodes:
        desired.raise_generations(connection, nodes, revision)
    named = select(tables.desired.c.list_id)
    connection.execute(
        delete(tables.lists).where((tables.lists.c.created_ns < before_ns) & tables.lists.c.id.not_in(named))
    )
