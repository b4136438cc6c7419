"""Follow a warm or a free to its end, and show how it ended."""

from __future__ import annotations

from pathlib import Path

from cacheengine.client import Control
from cacheengine.wire import Job
from outlap import show
from outlap.errors import NotHere

FAILURES_SHOWN = 20
POLL_S = 0.5  # nodes that fetch report about as often
ENDED = ("done", "failed", "cancelled")


def read_list(path: Path | None) -> tuple[str, ...] | None:
    """Paths of a list file, one a line. Raises NotHere for an empty list."""
    if path is None:
        return None
    found = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not found:
        raise NotHere(f"the list {path}", "there is no path in it", "write one path a line")
    return found


def follow(control: Control, job: Job) -> Job:
    """Wait for the job's end, with progress in bytes that were received, of which not all are checked."""
    with show.progress() as report:
        what = f"{job.kind} {job.dataset}@{job.tag}"
        while job.state not in ENDED:
            note = f" received, {show.size(job.bytes_done)} resident" if job.bytes_coming else ""
            report(what, job.bytes_done + job.bytes_coming, job.bytes_total, note, job.eta_s)
            job = control.job(job.id, wait_s=POLL_S)
        report(what, job.bytes_done, job.bytes_total)
    return job


def share(job: Job) -> str:
    """How much of it is done."""
    if not job.bytes_total:
        return f"{job.files_done:,} files"
    coming = f" (+ {job.bytes_coming / job.bytes_total:.0%} received)" if job.bytes_coming else ""
    return f"{job.bytes_done / job.bytes_total:.0%}{coming}"


def show_nodes(job: Job) -> None:
    """How far each node is."""
    show.table(
        ("node", "state", "files", "bytes", "on the way", "rate", "left", "failures"),
        [
            (
                node.node,
                node.state,
                f"{node.files_done:,} of {node.files_total:,}",
                f"{show.size(node.bytes_done)} of {show.size(node.bytes_total)}",
                show.size(node.bytes_coming),
                f"{show.size(node.rate_bps)}/s",
                "" if node.eta_s is None else show.seconds(node.eta_s),
                len(node.failures),
            )
            for node in job.nodes
        ],
    )


def show_job(job: Job, as_json: bool) -> None:
    if as_json:
        show.json_line(job.model_dump())
        return
    show.line(
        f"{job.kind} {job.dataset}@{job.tag} ({job.version[:12]}): {job.state}, "
        f"{job.files_done:,} of {job.files_total:,} files, {show.size(job.bytes_done)} of {show.size(job.bytes_total)}"
    )
    if job.cause:
        show.line(f"cause: {job.cause}")
    if job.error:
        show.line(f"{'note' if job.state == 'done' else 'why'}: {job.error}")
    if job.state == "done":
        return
    for failure in job.failures[:FAILURES_SHOWN]:
        show.line(f"failed: {failure.path}: {failure.cause}")
    if len(job.failures) > FAILURES_SHOWN:
        show.line(f"and {len(job.failures) - FAILURES_SHOWN:,} more (--json lists them all)")
    if job.state not in ENDED:
        if job.bytes_coming:
            show.line(f"on the way: {show.size(job.bytes_coming)}, received and not yet checked and marked")
        left = "" if job.eta_s is None else f", about {show.seconds(job.eta_s)} left"
        show.line(f"it goes on{left}; job {job.id}")
    elif job.kind == "warm":
        show.line(f"go on with it: outlap jobs resume {job.id}")
