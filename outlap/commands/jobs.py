"""`outlap jobs`: warms and frees, running and ended."""

from __future__ import annotations

from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, CacheIdc

app = typer.Typer(
    name="jobs",
    help="Warms and frees: list them, look at one, cancel or go on with one. Without a command: list.",
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `outlap jobs` lists it.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it has ended.")]


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context, limit: Limit = 20, idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """List warms and frees, newest first."""
    if context.invoked_subcommand is None:
        list_jobs(limit, idc, as_json)


@app.command("ls")
def list_jobs(limit: Limit = 20, idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """List warms and frees, newest first."""
    from lake.config import load_config
    from outlap.jobs import share
    from outlap.options import cache_control

    found = cache_control(load_config(), idc).jobs(limit, brief=True)
    if as_json:
        show.json_line([job.model_dump() for job in found])
        return
    show.table(
        ("id", "begun", "what", "version", "state", "done", "left", "why"),
        [
            (
                job.id,
                show.moment(job.created_ns),
                job.kind,
                f"{job.dataset}@{job.tag}",
                job.state,
                share(job),
                "" if job.eta_s is None or job.ended_ns is not None else show.seconds(job.eta_s),
                job.error or job.cause,
            )
            for job in found
        ],
    )


@app.command("show")
def show_one(job_id: Id, idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """One job: how far it is, on each node, and what failed. Exit code as of `outlap warm`, 0 while it runs."""
    from lake.config import load_config
    from outlap.jobs import ENDED, show_job, show_nodes
    from outlap.options import cache_control, job_exit_code

    job = cache_control(load_config(), idc).job(job_id)
    if not as_json:
        show_nodes(job)
    show_job(job, as_json)
    raise typer.Exit(job_exit_code(job) if job.state in ENDED else 0)


@app.command("cancel")
def cancel(job_id: Id, idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """End a warm. What it fetched stays until a node needs the room, and `outlap jobs resume` goes on with it."""
    from lake.config import load_config
    from outlap.jobs import show_job
    from outlap.options import cache_control

    job = cache_control(load_config(), idc).cancel(job_id)
    show_job(job, as_json)
    raise typer.Exit(0 if job.state in ("cancelled", "done") else 1)


@app.command("resume")
def resume(job_id: Id, wait: Wait = True, idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """Go on with a warm that failed or was cancelled, as a new job. What is there is not fetched again."""
    from lake.config import load_config
    from outlap.jobs import follow, show_job
    from outlap.options import cache_control, job_exit_code

    control = cache_control(load_config(), idc)
    job = control.resume(job_id)
    if wait:
        job = follow(control, job)
    show_job(job, as_json)
    raise typer.Exit(job_exit_code(job) if wait else 0)
