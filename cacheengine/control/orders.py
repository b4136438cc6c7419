"""Orders: warm, free, pin, cancel and estimate as plain functions; the routes only check tokens and call them.

Each reads the lake first, outside any transaction, then changes the database in one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from cacheengine.control import changes, desired, increments, jobstore, totals
from cacheengine.control.board import heard as heard_now
from cacheengine.control.jobs import Chosen, Heard, Lacking, Spec, estimate
from cacheengine.control.placement import check_selector, select_nodes
from cacheengine.control.service import Service
from cacheengine.control.tables import WHOLE, writing
from cacheengine.wire import Desired, Estimate, FreeRequest, Job, PinRequest, WarmRequest
from lake.canonical import blake3_hex
from lake.errors import Conflict, LakeError, NotFound, Refused, StoreDown
from lake.names import check_dataset

MOST_REQUEST_ID = 4000
MOST_NAMED = 10


class _Wanted(NamedTuple):
    dataset: str
    tag: str
    version: str
    list_id: str | None
    paths: tuple[str, ...]
    totals: totals.Totals


def _wanted(service: Service, request: WarmRequest) -> _Wanted:
    store = service.lake()
    ref = totals.resolve(store, check_dataset(request.dataset), request.ref)
    if request.files is None:
        return _Wanted(ref.dataset, ref.tag, ref.version, None, (), totals.of_version(store, ref.version))
    list_id, paths = desired.list_of(request.files)
    if not paths:
        raise Refused(
            "the file list", "it is empty", "name files, or leave the list out for the whole version"
        )
    totals.of_version(store, ref.version)  # wholly here, or it cannot be warmed
    return _Wanted(
        ref.dataset, ref.tag, ref.version, list_id, paths, totals.of_list(store, ref.version, paths)
    )


def _select(service: Service, heard: dict[str, Heard], selector: str) -> tuple[str, ...]:
    near = service.limits.dead_after_s + service.limits.grace_s
    return select_nodes(selector, desired.candidates(heard, service.now_ns(), near))


def _digest(request: WarmRequest | FreeRequest) -> str:
    if request.request_id is not None and not 0 < len(request.request_id) <= MOST_REQUEST_ID:
        raise Refused("the request id", f"it must have 1 to {MOST_REQUEST_ID} characters")
    # a field that came later counts where it is used: an id of before an upgrade stays that request's
    later = set() if getattr(request, "force", False) else {"force"}
    return blake3_hex((type(request).__name__ + request.model_dump_json(exclude=later)).encode())


def _once(
    service: Service, request: WarmRequest | FreeRequest, digest: str, start: Callable[[Connection], str]
) -> str:
    """The job of the request, begun unless its id has one; replicas that begin it at once agree on the first."""
    try:
        with writing(service.engine) as connection:
            return jobstore.find_request(connection, request.request_id, digest) or start(connection)
    except IntegrityError:
        with service.engine.connect() as connection:
            known = jobstore.find_request(connection, request.request_id, digest)
        if known is None:
            raise
        return known


def warm(service: Service, request: WarmRequest, who: str = "") -> Job:
    """A job that makes the version (or the files) resident on the chosen nodes; the same request id is the same job.

    who: whose pin it is, where the warm pins.

    Raises NotFound (dataset, version, path), Refused (selector, list), StoreDown, Conflict (request id of another request).
    """
    check_selector(request.nodes)
    digest = _digest(request)
    with service.engine.connect() as connection:
        known = jobstore.find_request(connection, request.request_id, digest)
    if known is not None:
        return jobstore.look(service, known)
    wanted = _wanted(service, request)
    job = _once(service, request, digest, lambda c: _start_warm(service, c, request, wanted, digest, who))
    return jobstore.look(service, job)


def _start_warm(
    service: Service, connection: Connection, request: WarmRequest, wanted: _Wanted, digest: str, who: str
) -> str:
    revisions = changes.touch(connection, "jobs", "nodes")
    nodes = _select(service, heard_now(service.board), request.nodes)
    raised = desired.raise_generations(connection, nodes, revisions["nodes"])
    now_ns, job = service.now_ns(), _new_id()
    if wanted.list_id is not None:
        desired.put_list(connection, wanted.list_id, wanted.paths, now_ns)
    wish = desired.Wish(
        wanted.dataset,
        wanted.tag,
        wanted.version,
        wanted.list_id or WHOLE,
        job,
        request.pin,
        request.priority,
        request.bandwidth_bps,
        request.nodes,
        request.placement,
        request.copies,
        *((who or None, now_ns, job) if request.pin else ()),
    )
    desired.put_entries(connection, list(raised), wish, now_ns)
    spec = _spec(wanted, request, raised, job, now_ns)
    jobstore.end_opposed(service, connection, spec, f"job {job} warms it again", revisions["jobs"])
    jobstore.insert_job(connection, spec, request.request_id, digest, revisions["jobs"])
    return job


def _new_id() -> str:
    return secrets.token_hex(8)


def _spec(wanted: _Wanted, request: WarmRequest, raised: dict[str, int], job: str, now_ns: int) -> Spec:
    return Spec(
        id=job,
        kind="warm",
        dataset=wanted.dataset,
        tag=wanted.tag,
        version=wanted.version,
        list_id=wanted.list_id,
        files=wanted.totals.files,
        bytes=wanted.totals.bytes,
        selector=request.nodes,
        created_ns=now_ns,
        nodes=tuple(Chosen(node=node, generation=number) for node, number in sorted(raised.items())),
        pin=request.pin,
        placement=request.placement,
        copies=request.copies,
        priority=request.priority,
        bandwidth_bps=request.bandwidth_bps,
    )


def estimate_warm(service: Service, request: WarmRequest) -> Estimate:
    """What the warm would cost. Changes nothing. Raises as `warm` does."""
    check_selector(request.nodes)
    wanted = _wanted(service, request)
    heard = heard_now(service.board)
    nodes = _select(service, heard, request.nodes)
    with service.engine.connect() as connection:
        held = {node: desired.read_desired(connection, node) for node in nodes}
    spec = _spec(wanted, request, dict.fromkeys(nodes, 0), "", service.now_ns())
    capped = spec.bandwidth_bps or service.chosen.group.bandwidth_bps
    spec = spec.model_copy(update={"bandwidth_bps": capped})
    lacking = _lacking(service, wanted, [node for node in nodes if node in heard], heard)
    return estimate(spec, heard, held, lacking)


def _lacking(
    service: Service, wanted: _Wanted, nodes: Sequence[str], heard: dict[str, Heard]
) -> dict[str, Lacking]:
    """What each node holds for no other version of the dataset. Nodes that hold the same are computed once."""
    found: dict[tuple[str, ...], Lacking] = {}
    each = {}
    for node in nodes:
        whole = tuple(
            sorted(
                report.version
                for report in heard[node].heartbeat.versions
                if report.dataset == wanted.dataset
                and report.list_id is None
                and report.group is None
                and report.state == "resident"
                and report.version != wanted.version
            )
        )
        if whole and whole not in found:
            paths = None if wanted.list_id is None else wanted.paths
            found[whole] = Lacking(*increments.missing(service.lake(), wanted.version, paths, whole))
        if whole:
            each[node] = found[whole]
    return each


def free(service: Service, request: FreeRequest, cause: str | None = None) -> Job:
    """A job that takes the version (or the files) from the desired residency of the chosen nodes. cause: where no person asks.

    What no store has any more can be freed too, as long as some node should hold it.
    Raises NotFound, Refused, StoreDown, Conflict (it is pinned there, and the request does not force it).
    """
    check_selector(request.nodes)
    digest = _digest(request)
    with service.engine.connect() as connection:
        known = jobstore.find_request(connection, request.request_id, digest)
    if known is not None:
        return jobstore.look(service, known)
    tag, version = _resolve_held(service, request.dataset, request.ref)
    cut = _Cut(request, tag, version, _amount(service, request, version), cause)
    rests = _rests(service, cut)
    job = _once(service, request, digest, lambda c: _start_free(service, c, cut, rests, digest))
    return jobstore.look(service, job)


class _Cut(NamedTuple):
    request: FreeRequest
    tag: str
    version: str
    totals: totals.Totals
    cause: str | None


def _resolve_held(service: Service, dataset: str, ref: str) -> tuple[str, str]:
    try:
        found = totals.resolve(service.lake(), check_dataset(dataset), ref)
        return found.tag, found.version
    except (NotFound, StoreDown):
        with service.engine.connect() as connection:
            known = desired.known_version(connection, dataset, ref)
        if known is None:
            raise
        return known


def _amount(service: Service, request: FreeRequest, version: str) -> totals.Totals:
    try:
        if request.files is not None:
            return totals.of_list(service.lake(), version, desired.list_of(request.files)[1])
        return totals.of_version(service.lake(), version)
    except LakeError:
        if request.files is not None:
            raise
        # the store forgot it: what nodes say is all there is
        known = heard_now(service.board).values()
        held = [r for h in known for r in h.heartbeat.versions if r.version == version]
        return totals.Totals(
            max((r.files_total for r in held), default=0), max((r.bytes_total for r in held), default=0)
        )


def _rests(service: Service, cut: _Cut) -> dict[str, tuple[str, tuple[str, ...]]]:
    """For each list (or WHOLE) that is desired: what is left of it without the files to free."""
    if cut.request.files is None:
        return {}
    freed = set(cut.request.files)
    with service.engine.connect() as connection:
        nodes = list(service.board.nodes)
        entries = desired.entries_of(connection, cut.request.dataset, cut.version, nodes)
        kept = {wish.list_id for _, wish in entries}
        lists = {list_id: desired.read_list(connection, list_id) for list_id in kept if list_id}
    if WHOLE in kept:
        lists[WHOLE] = totals.all_paths(service.lake(), cut.version)
    return {
        list_id: desired.list_of(path for path in paths if path not in freed)
        for list_id, paths in lists.items()
        if not freed.isdisjoint(paths)
    }


def _start_free(
    service: Service,
    connection: Connection,
    cut: _Cut,
    rests: dict[str, tuple[str, tuple[str, ...]]],
    digest: str,
) -> str:
    request, now_ns, job = cut.request, service.now_ns(), _new_id()
    revisions = changes.touch(connection, "jobs", "nodes")
    heard = heard_now(service.board)
    holding = {node for node, _ in desired.entries_of(connection, request.dataset, cut.version, list(heard))}
    near = set(_select(service, heard, request.nodes))
    # a pattern reaches dead nodes too when they should hold the version: they let go of it when they are back
    every = select_nodes(request.nodes, desired.candidates(heard, now_ns, float("inf")))
    nodes = sorted(near | holding.intersection(every))
    raised = desired.raise_generations(connection, nodes, revisions["nodes"])
    released: list[str | None] = []
    rest_of: dict[desired.Wish, list[str]] = {}
    entries = [
        (node, wish)
        for node, wish in desired.entries_of(connection, request.dataset, cut.version, nodes)
        if request.files is None or wish.list_id in rests
    ]
    if not request.force:
        _refuse_pinned(cut, entries)
    for node, wish in entries:
        released.append(wish.list_id or None)
        desired.remove_entry(connection, node, request.dataset, cut.version, wish.list_id)
        if rests.get(wish.list_id, ("", ()))[1]:
            rest_of.setdefault(wish, []).append(node)
    for wish, holders in rest_of.items():
        rest_id, rest = rests[wish.list_id]
        desired.put_list(connection, rest_id, rest, now_ns)
        desired.put_entries(connection, holders, wish._replace(list_id=rest_id, job=job), now_ns)
    spec = Spec(
        id=job,
        kind="free",
        dataset=request.dataset,
        tag=cut.tag,
        version=cut.version,
        released=None if request.files is None else tuple(dict.fromkeys(released)),
        files=cut.totals.files,
        bytes=cut.totals.bytes,
        selector=request.nodes,
        created_ns=now_ns,
        nodes=tuple(Chosen(node=node, generation=number) for node, number in sorted(raised.items())),
        cause=cut.cause,
    )
    jobstore.end_opposed(service, connection, spec, f"job {job} frees it", revisions["jobs"])
    jobstore.insert_job(connection, spec, request.request_id, digest, revisions["jobs"])
    return job


def _refuse_pinned(cut: _Cut, entries: Sequence[tuple[str, desired.Wish]]) -> None:
    """Raises Conflict, which names the nodes, who pinned it there, and when."""
    pinned = [(node, wish) for node, wish in entries if wish.pinned]
    if not pinned:
        return
    whose: dict[str, set[str]] = {}
    for node, wish in pinned:
        by = "somebody (an earlier release did not keep who)" if wish.pinned_by is None else wish.pinned_by
        when = "" if wish.pinned_ns is None else f" at {_moment(wish.pinned_ns)}"
        whose.setdefault(f"{by}{when}", set()).add(node)
    said = "; ".join(f"on {_names(nodes)} by {who}" for who, nodes in sorted(whose.items())[:MOST_NAMED])
    version = f"{cut.request.dataset}@{cut.tag}"
    raise Conflict(
        f"the free of {version}",
        f"it is pinned {said}",
        f"`outlap unpin {version}` lets it go, `outlap free {version} --force` frees it all the same",
    )


def _moment(ns: int) -> str:
    return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _names(nodes: Collection[str]) -> str:
    names = sorted(nodes)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def set_pin(service: Service, request: PinRequest, pinned: bool, who: str = "") -> list[Desired]:
    """Pin, or unpin, what the chosen nodes should hold of a version; the new desired residency of each node.

    who: who pins it.

    Raises NotFound when none of them should hold any of it: there is nothing to keep.
    """
    check_selector(request.nodes)
    tag, version = _resolve_held(service, request.dataset, request.ref)
    with writing(service.engine) as connection:
        revision = changes.touch(connection, "nodes")["nodes"]
        chosen = _select(service, heard_now(service.board), request.nodes)
        holding: Sequence[str] = sorted(
            {node for node, _ in desired.entries_of(connection, request.dataset, version, chosen)}
        )
        if not holding:
            raise NotFound(
                f"{request.dataset}@{tag} on {request.nodes!r}",
                "no such node should hold any of it",
                f"warm it there: `outlap warm {request.dataset}@{tag}`",
            )
        desired.raise_generations(connection, holding, revision)
        if pinned:
            now_ns = service.now_ns()
            desired.pin_entries(connection, request.dataset, version, holding, who=who, now_ns=now_ns)
        else:
            desired.unpin_entries(connection, request.dataset, version, holding)
        return [desired.read_desired(connection, node) for node in holding]


def cancel(service: Service, job_id: str, who: str) -> Job:
    """End a job. What only a warm asked for is taken back: nothing more is fetched, and what is there may be evicted.

    A free cannot be taken back: what it released is released. Raises NotFound, Conflict (it has ended, or is a free).
    """
    with writing(service.engine) as connection:
        revisions = changes.touch(connection, "jobs", "nodes")
        spec, ended = jobstore.read(connection, job_id)
        if ended is not None:
            raise Conflict(
                f"the job {job_id}", f"it has ended: {ended.state}", "`outlap jobs` lists what runs"
            )
        if spec.kind == "free":
            raise Conflict(
                f"the job {job_id}",
                "it frees, and what was released cannot be taken back",
                f"warm it again: `outlap warm {spec.dataset}@{spec.tag}`",
            )
        job = jobstore.end_early(service, connection, spec, f"cancelled by {who}", revisions["jobs"])
        if job.state == "cancelled":
            changed = desired.take_back(connection, job_id)
            desired.raise_generations(connection, sorted(changed), revisions["nodes"])
        return job


def request_again(service: Service, job_id: str) -> WarmRequest:
    """The request that goes on with a warm that failed or was cancelled. Raises NotFound, Conflict."""
    with service.engine.connect() as connection:
        spec, ended = jobstore.read(connection, job_id)
        if ended is None:
            raise Conflict(f"the job {job_id}", "it still runs", f"follow it: `outlap jobs show {job_id}`")
        if spec.kind == "free" or ended.state == "done":
            raise Conflict(
                f"the job {job_id}", f"it is a {spec.kind} that is {ended.state}: nothing of it is left to do"
            )
        files = None if spec.list_id is None else tuple(desired.read_list(connection, spec.list_id))
    return WarmRequest(
        dataset=spec.dataset,
        ref=spec.version,
        files=files,
        nodes=spec.selector,
        pin=spec.pin,
        placement=spec.placement,
        copies=spec.copies,
        priority=spec.priority,
        bandwidth_bps=spec.bandwidth_bps,
    )
