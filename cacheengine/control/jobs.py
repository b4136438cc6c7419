"""Jobs as pure functions: what nodes reported, and what was asked of them → state, progress, ETA, estimate.

A warm is done only when every chosen node, having seen the job's generation of its desired residency, reports N of N files of
exactly this version (and list) resident. A free is done when every chosen node has seen it and no longer reports what was
freed. Anything else that ends is a failure that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from cacheengine.wire import (
    Desired,
    Estimate,
    Failure,
    Heartbeat,
    Job,
    JobState,
    NodeEstimate,
    NodeProgress,
    Placement,
    ResidencyState,
    VersionReport,
)

MOST_FAILURES = 1000
UNKNOWN_SPREAD = 2.0
ENDED: frozenset[JobState] = frozenset(("done", "failed", "cancelled"))


class Chosen(BaseModel):
    """A node of a job, and the generation of its desired residency that carries the job."""

    model_config = ConfigDict(frozen=True)
    node: str
    generation: int


class Spec(BaseModel):
    """What a job is. `files`, `bytes`: of the version (or list), for one node.

    `released`: the list ids that a narrowed free took away (None: everything of the version). `cause`: why it was asked, where no
    person did. `bandwidth_bps`: what each node may fetch a second.
    """

    model_config = ConfigDict(frozen=True)
    id: str
    kind: Literal["warm", "free"]
    dataset: str
    tag: str
    version: str
    list_id: str | None = None
    released: tuple[str | None, ...] | None = None
    files: int
    bytes: int
    selector: str
    created_ns: int
    nodes: tuple[Chosen, ...]
    pin: bool = False
    placement: Placement = "all"
    copies: int = 1
    priority: int = 0
    bandwidth_bps: int | None = None
    cause: str | None = None


class Heard(NamedTuple):
    """The last heartbeat of a node. `seen_ns`: when; never before this service started, so that its own absence kills nobody."""

    heartbeat: Heartbeat
    seen_ns: int


class Limits(NamedTuple):
    """Seconds without a heartbeat after which a node is dead, and how much longer a job waits for it."""

    dead_after_s: float
    grace_s: float


class _Verdict(NamedTuple):
    progress: NodeProgress
    state: JobState
    eta_s: float | None
    why: str = ""


def _silent_s(heard: Heard | None, spec: Spec, now_ns: int) -> float:
    return (now_ns - (heard.seen_ns if heard else spec.created_ns)) / 1e9


def _report(spec: Spec, heartbeat: Heartbeat) -> VersionReport | None:
    for report in heartbeat.versions:
        if (report.dataset, report.version, report.list_id) == (spec.dataset, spec.version, spec.list_id):
            return report
    return None


def _eta(missing: int, rate: float) -> float | None:
    if missing <= 0:
        return 0.0
    return missing / rate if rate > 0 else None


def _progress(
    spec: Spec, chosen: Chosen, state: ResidencyState, files: int, size: int, rate: float = 0.0
) -> NodeProgress:
    return NodeProgress(
        node=chosen.node,
        state=state,
        files_total=spec.files,
        files_done=min(files, spec.files),
        bytes_total=spec.bytes,
        bytes_done=min(size, spec.bytes),
        rate_bps=rate,
    )


def _warm_on(spec: Spec, chosen: Chosen, heartbeat: Heartbeat) -> _Verdict:
    report = _report(spec, heartbeat)
    current = heartbeat.generation >= chosen.generation
    measured = heartbeat.fetch_bps or 0.0
    if report is None:
        eta = _eta(spec.bytes, measured)
        return _Verdict(_progress(spec, chosen, "waiting", 0, 0), "running" if current else "queued", eta)
    state: ResidencyState = report.state if current else "waiting"
    progress = _progress(spec, chosen, state, report.files_resident, report.bytes_resident, report.rate_bps)
    progress = progress.model_copy(
        update={"bytes_coming": min(report.bytes_coming, progress.bytes_total - progress.bytes_done)}
    )
    if spec.placement == "spread":
        progress = progress.model_copy(
            update={"files_total": report.files_total, "bytes_total": report.bytes_total}
        )
    # the node itself knows best; one that has not begun is taken to be as fast as it was before
    eta = report.eta_s
    if eta is None:
        total = report.bytes_total or (0 if report.state == "resident" else spec.bytes)
        eta = _eta(total - report.bytes_resident, report.rate_bps or measured)
    if not current:
        return _Verdict(progress, "queued", eta)
    if report.state == "failed":
        failures = report.failures or (Failure(path="", cause="the node gave no path"),)
        failed = progress.model_copy(update={"failures": failures[:MOST_FAILURES]})
        why = f"{chosen.node}: {failures[0].path or 'the version'}: {failures[0].cause}"
        if len(failures) > 1:
            why += f" (and {len(failures) - 1} more)"
        return _Verdict(failed, "failed", None, why)
    if report.state != "resident":
        return _Verdict(progress, "running", eta)
    if spec.placement == "spread":
        whole = report.group is not None and report.files_resident == report.files_total
        return _Verdict(progress, "done" if whole else "running", 0.0 if whole else None)
    if (report.files_resident, report.files_total) == (spec.files, spec.files):
        return _Verdict(progress, "done", 0.0)
    cause = f"it says resident with {report.files_resident} of {report.files_total} files, the manifest has {spec.files}"
    short = progress.model_copy(
        update={"state": "failed", "failures": (*report.failures, Failure(path="", cause=cause))}
    )
    return _Verdict(short, "failed", None, f"{chosen.node}: {cause}")


def _free_on(spec: Spec, chosen: Chosen, heartbeat: Heartbeat) -> _Verdict:
    if heartbeat.generation < chosen.generation:
        return _Verdict(_progress(spec, chosen, "waiting", 0, 0), "queued", None)
    left = [
        report
        for report in heartbeat.versions
        if (report.dataset, report.version) == (spec.dataset, spec.version)
        and (spec.released is None or report.list_id in spec.released)
    ]
    mounts = [m for m in heartbeat.mounts if (m.dataset, m.version) == (spec.dataset, spec.version)]
    if mounts:
        # the desired residency is released; the lease is the mount's, and the node frees when it ends
        kept = tuple(
            Failure(path=m.target, cause="mounted there: its packs stay until it is unmounted")
            for m in mounts
        )
        progress = _progress(spec, chosen, "freeing", spec.files, spec.bytes)
        why = f"{chosen.node}: mounted at {mounts[0].target}: packs stay until it is unmounted"
        return _Verdict(progress.model_copy(update={"failures": kept}), "done", 0.0, why)
    if not left:
        return _Verdict(_progress(spec, chosen, "freeing", spec.files, spec.bytes), "done", 0.0)
    files = spec.files - max(report.files_resident for report in left)
    size = spec.bytes - max(report.bytes_resident for report in left)
    progress = _progress(spec, chosen, "freeing", max(files, 0), max(size, 0))
    broken = [report for report in left if report.state == "failed" and report.failures]
    if broken:
        failures = broken[0].failures[:MOST_FAILURES]
        why = f"{chosen.node}: {failures[0].path}: {failures[0].cause}"
        return _Verdict(progress.model_copy(update={"failures": failures}), "failed", None, why)
    return _Verdict(progress, "running", None)


def _on_node(spec: Spec, chosen: Chosen, heard: Heard | None, now_ns: int, limits: Limits) -> _Verdict:
    judge = _warm_on if spec.kind == "warm" else _free_on
    silent = _silent_s(heard, spec, now_ns)
    if heard is not None:
        verdict = judge(spec, chosen, heard.heartbeat)
    else:
        verdict = _Verdict(_progress(spec, chosen, "waiting", 0, 0), "queued", None)
    if silent <= limits.dead_after_s or verdict.state in ("done", "failed"):
        report = None if heard is None else _report(spec, heard.heartbeat)
        if verdict.eta_s is not None and report is not None and report.eta_s is not None:
            return verdict._replace(eta_s=max(0.0, verdict.eta_s - silent))  # it was said a moment ago
        return verdict
    if silent <= limits.dead_after_s + limits.grace_s:
        return verdict._replace(
            eta_s=None, why=f"{chosen.node}: no heartbeat for {silent:.0f} s; waiting for it"
        )
    cause = f"the node is dead: no heartbeat for {silent:.0f} s. Start its agent again, or name other nodes"
    dead = verdict.progress.model_copy(
        update={"state": "failed", "failures": (Failure(path="", cause=cause),)}
    )
    return _Verdict(dead, "failed", None, f"{chosen.node}: {cause}")


def node_state(spec: Spec, chosen: Chosen, heard: Heard | None, now_ns: int, limits: Limits) -> JobState:
    """How far one node of a job is."""
    return _on_node(spec, chosen, heard, now_ns, limits).state


def _joined_state(states: Sequence[JobState]) -> JobState:
    if not states or "failed" in states:
        return "failed"
    if all(state == "done" for state in states):
        return "done"
    return "queued" if all(state == "queued" for state in states) else "running"


class _Done(NamedTuple):
    files: int
    bytes: int
    coming: int


def _totals_done(spec: Spec, heard: Mapping[str, Heard], verdicts: Sequence[_Verdict]) -> _Done:
    """What every chosen node has; in `spread`, what the shares of one generation of the group add up to, of a copy. And what has come
    on top."""
    if spec.placement != "spread" or spec.kind != "warm":
        each = [verdict.progress for verdict in verdicts]
        size = min((node.bytes_done for node in each), default=0)
        received = min((node.bytes_done + node.bytes_coming for node in each), default=0)
        return _Done(min((node.files_done for node in each), default=0), size, received - size)
    reports = [_report(spec, known.heartbeat) for known in heard.values()]
    shares = [report for report in reports if report is not None and report.group is not None]
    newest = max((report.group or 0 for report in shares), default=0)
    now = [report for report in shares if report.group == newest]
    copies = max(1, min(spec.copies, len([report for report in now if report.files_total])))
    files = sum(report.files_resident for report in now) // copies
    size = min(spec.bytes, sum(report.bytes_resident for report in now) // copies)
    coming = sum(report.bytes_coming for report in now) // copies
    return _Done(min(spec.files, files), size, min(coming, spec.bytes - size))


def _with_eta(verdicts: Sequence[_Verdict], typical_bps: float | None) -> list[_Verdict]:
    """Nodes that measured nothing yet are taken to be as fast as the others, so that there is an ETA from the start."""
    return [
        verdict._replace(eta_s=_eta(verdict.progress.bytes_total - verdict.progress.bytes_done, typical_bps))
        if typical_bps
        and verdict.eta_s is None
        and verdict.state in ("queued", "running")
        and not verdict.why
        else verdict
        for verdict in verdicts
    ]


def judge(spec: Spec, heard: Mapping[str, Heard], now_ns: int, limits: Limits) -> Job:
    """The job as of now.

    Its totals are those of the version (or list); its `files_done` and `bytes_done` are what *every* chosen node has (so N of N
    means it; in `spread`, see `_totals_done`); `rate_bps` is of all nodes together; `eta_s` is the slowest node's, None while one was
    never measured.
    """
    verdicts = [_on_node(spec, chosen, heard.get(chosen.node), now_ns, limits) for chosen in spec.nodes]
    verdicts = _with_eta(verdicts, typical_rate(heard))
    state = _joined_state([verdict.state for verdict in verdicts])
    done = _totals_done(spec, heard, verdicts)
    if spec.placement == "spread" and spec.kind == "warm" and state == "done" and done.files < spec.files:
        state = "running"
    etas = [verdict.eta_s for verdict in verdicts]
    known = [eta for eta in etas if eta is not None]
    reasons = [v.why for v in verdicts if v.why and (state != "failed" or v.state == "failed")]
    if not spec.nodes:
        reasons = [f"no node matches {spec.selector!r}; `outlap nodes` lists what there is"]
    failures = tuple(failure for verdict in verdicts for failure in verdict.progress.failures)
    return Job(
        id=spec.id,
        kind=spec.kind,
        dataset=spec.dataset,
        tag=spec.tag,
        version=spec.version,
        state=state,
        files_total=spec.files,
        files_done=done.files,
        bytes_total=spec.bytes,
        bytes_done=done.bytes,
        bytes_coming=0 if state in ENDED else done.coming,
        rate_bps=sum(v.progress.rate_bps for v in verdicts),
        eta_s=max(known) if known and len(known) == len(etas) and state != "failed" else None,
        created_ns=spec.created_ns,
        ended_ns=now_ns if state in ENDED else None,
        nodes=tuple(verdict.progress.model_copy(update={"eta_s": verdict.eta_s}) for verdict in verdicts),
        failures=failures[:MOST_FAILURES],
        error="; ".join(reasons) or None,
        cause=spec.cause,
    )


def _make_room(
    heartbeat: Heartbeat, desired: Desired, wanted: str, missing: int, spare: int
) -> tuple[bool, tuple[str, ...]]:
    """Whether `missing` bytes fit once the node evicts what it may, and the versions that would go."""
    kept = {entry.version for entry in desired.versions if entry.pinned} | {wanted}
    kept |= {mount.version for mount in heartbeat.mounts}
    used = sum(directory.used for directory in heartbeat.dirs if directory.state == "normal")
    # bytes of no version go first: what was fetched on demand, packs that nothing names any more
    spare += max(0, used - sum(report.bytes_resident for report in heartbeat.versions))
    gone: list[str] = []
    for report in heartbeat.versions:
        if spare >= missing:
            break
        if report.version not in kept and report.bytes_resident:
            gone.append(f"{report.dataset}@{report.tag}")
            spare += report.bytes_resident
    return spare >= missing, tuple(gone)


class _Rate(NamedTuple):
    """Bytes a second that a node may be expected to fetch; how fast and how slow it may turn out to be."""

    bps: float | None
    fast: float = 0.0
    slow: float = 0.0
    basis: Literal["several", "one", "other nodes", "cap", "nothing"] = "nothing"

    @staticmethod
    def within(bps: float, basis: Literal["one", "other nodes"]) -> _Rate:
        """One measurement says nothing of how much another would differ: half of it, or twice as much."""
        return _Rate(bps, bps * UNKNOWN_SPREAD, bps / UNKNOWN_SPREAD, basis)


def _expected_rate(spec: Spec, heartbeat: Heartbeat, typical_bps: float | None) -> _Rate:
    measured, spread = heartbeat.fetch_bps, heartbeat.fetch_bps_spread
    if measured and spread is not None:
        # a spread as wide as the rate itself says little: never slower than a tenth of what was measured
        found = _Rate(measured, measured + spread, max(measured - spread, measured / 10), "several")
    elif measured:
        found = _Rate.within(measured, "one")
    elif typical_bps:
        found = _Rate.within(typical_bps, "other nodes")
    else:
        return _Rate(None)
    cap = spec.bandwidth_bps
    if cap is None or found.bps is None or found.fast <= cap:
        return found
    return _Rate(
        min(found.bps, cap), float(cap), min(found.slow, cap), "cap" if found.bps > cap else found.basis
    )


def _seconds(missing: int, bps: float | None) -> float | None:
    if missing == 0:
        return 0.0
    return missing / bps if bps else None


class Lacking(NamedTuple):
    """Files and bytes of a version that a node holds for no other version."""

    files: int
    bytes: int


def _node_estimate(
    spec: Spec, heartbeat: Heartbeat, desired: Desired, lacking: Lacking, typical_bps: float | None
) -> NodeEstimate:
    report = _report(spec, heartbeat)
    if report is not None and report.group is not None:  # its totals are those of its share
        lacking = Lacking(
            report.files_total - report.files_resident, report.bytes_total - report.bytes_resident
        )
    files = min(lacking.files, max(0, spec.files - (report.files_resident if report else 0)))
    missing = min(lacking.bytes, max(0, spec.bytes - (report.bytes_resident if report else 0)))
    usable = [directory for directory in heartbeat.dirs if directory.state == "normal"]
    spare = sum(max(0, min(d.quota - d.used, d.free_on_disk)) for d in usable)
    fits: bool = True
    evicts: tuple[str, ...] = ()
    if missing > spare:
        fits, evicts = _make_room(heartbeat, desired, spec.version, missing, spare)
    rate = _expected_rate(spec, heartbeat, typical_bps)
    return NodeEstimate(
        node=heartbeat.node,
        files_missing=files,
        bytes_missing=missing,
        bytes_free=spare,
        fits=fits,
        seconds=_seconds(missing, rate.bps),
        seconds_low=_seconds(missing, rate.fast),
        seconds_high=_seconds(missing, rate.slow),
        basis=rate.basis,
        evicts=evicts,
    )


def typical_rate(heard: Mapping[str, Heard]) -> float | None:
    """The mean of the rates that nodes measured; None when none did."""
    rates = [h.heartbeat.fetch_bps for h in heard.values() if h.heartbeat.fetch_bps]
    return sum(rates) / len(rates) if rates else None


def _shares(spec: Spec, heard: Mapping[str, Heard]) -> dict[str, Lacking]:
    """What each chosen node would hold: all of it, or in `spread` about its part of `copies` by quota."""
    quotas = {
        c.node: sum(d.quota for d in heard[c.node].heartbeat.dirs) for c in spec.nodes if c.node in heard
    }
    total = sum(quotas.values())
    if spec.placement == "all" or not total:
        return dict.fromkeys(quotas, Lacking(spec.files, spec.bytes))
    parts = {node: min(1.0, spec.copies * quota / total) for node, quota in quotas.items()}
    return {node: Lacking(round(spec.files * part), round(spec.bytes * part)) for node, part in parts.items()}


def estimate(
    spec: Spec,
    heard: Mapping[str, Heard],
    desired: Mapping[str, Desired],
    lacking: Mapping[str, Lacking] | None = None,
) -> Estimate:
    """What the warm would cost each node and all of them (the slowest), from rates the nodes measured.

    lacking: what each node holds for no other version (default: all). A node that measured nothing is taken to be as fast as others.
    """
    typical, shares = typical_rate(heard), _shares(spec, heard)
    each = tuple(
        _node_estimate(
            spec,
            heard[c.node].heartbeat,
            desired.get(c.node) or Desired(node=c.node, generation=0),
            min(shares[c.node], (lacking or {}).get(c.node, shares[c.node])),
            typical,
        )
        for c in spec.nodes
        if c.node in heard
    )

    def slowest(of: Callable[[NodeEstimate], float | None]) -> float | None:
        found = [of(node) for node in each]
        if not found or any(seconds is None for seconds in found):
            return None
        return max(seconds or 0.0 for seconds in found)

    return Estimate(
        dataset=spec.dataset,
        version=spec.version,
        files=spec.files,
        bytes=spec.bytes,
        seconds=slowest(lambda node: node.seconds),
        seconds_low=slowest(lambda node: node.seconds_low),
        seconds_high=slowest(lambda node: node.seconds_high),
        nodes=each,
    )
