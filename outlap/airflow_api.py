"""What the demo asks of Airflow, over its public REST API (/api/v2), as any user of the page could."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from outlap.errors import DemoFailed

Say = Callable[[str], None]
POLL_S = 1.0
STILL_RUNNING_S = 15.0
ENDED = ("success", "failed")
LOG_LINES = 15


@dataclass
class Airflow:
    """A session. page: the address of the web page; the token is renewed when it has run out."""

    page: str
    user: str
    password: str = field(repr=False)
    client: httpx.Client = field(repr=False)


@dataclass(frozen=True)
class Run:
    """One DAG run. seconds: from its start to its end, None while it runs."""

    dag: str
    id: str
    state: str
    partition_key: str | None
    seconds: float | None


@contextmanager
def open_airflow(page: str, user: str, password: str) -> Iterator[Airflow]:
    """Log in. Raises DemoFailed when Airflow is not there or refuses."""
    with httpx.Client(base_url=page, timeout=30.0, trust_env=False) as client:
        session = Airflow(page, user, password, client)
        _login(session)
        yield session


def _login(session: Airflow) -> None:
    answer = _send(
        session, "POST", "/auth/token", {"username": session.user, "password": session.password}, {}
    )
    if answer.status_code != 201:
        raise DemoFailed(
            f"log in to Airflow at {session.page}",
            f"it answers {answer.status_code}",
            "run `outlap down`, then `outlap up`",
        )
    session.client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _send(session: Airflow, method: str, path: str, body: Any, query: Mapping[str, Any]) -> httpx.Response:
    """One request; one that reads is tried again while Airflow does not answer (it may just be restarted)."""
    until = time.monotonic() + 60
    while True:
        try:
            return session.client.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            if method != "GET" or time.monotonic() > until:
                raise DemoFailed(
                    f"Airflow at {session.page}",
                    f"it does not answer: {type(error).__name__}",
                    "see `outlap status` and its log",
                ) from error
            time.sleep(POLL_S)


def ask(session: Airflow, method: str, path: str, body: Any = None, **query: Any) -> Any:
    """The JSON of an answer. Raises DemoFailed with what Airflow says when it refuses."""
    answer = _send(session, method, f"/api/v2{path}", body, query)
    if answer.status_code == 401:
        _login(session)
        answer = _send(session, method, f"/api/v2{path}", body, query)
    if answer.status_code >= 300:
        raise DemoFailed(
            f"ask Airflow {method} {path}",
            f"it answers {answer.status_code}: {' '.join(answer.text.split())[:400]}",
            f"look at {session.page}",
        )
    return answer.json()


def wait_for_dags(session: Airflow, names: Sequence[str], say: Say, patience_s: float = 180.0) -> None:
    """Until Airflow has read these DAGs. Raises DemoFailed with the import errors it reports."""
    until = time.monotonic() + patience_s
    said = False
    while True:
        dags = {dag["dag_id"]: dag for dag in ask(session, "GET", "/dags", limit=100)["dags"]}
        missing = [name for name in names if name not in dags or dags[name].get("is_stale")]
        if not missing:
            break
        errors = ask(session, "GET", "/importErrors", limit=20)["import_errors"]
        if errors or time.monotonic() > until:
            lines = [
                f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors
            ]
            raise DemoFailed(
                f"the DAG {missing[0]}",
                "; ".join(lines) or f"Airflow has not read it after {patience_s:.0f} s",
                f"see {session.page} and the log of airflow",
            )
        if not said:
            say(f"waiting for Airflow to read the DAGs ({', '.join(missing)})")
            said = True
        time.sleep(POLL_S)
    paused = [name for name in names if dags[name]["is_paused"]]
    if paused:
        raise DemoFailed(
            f"the DAG {paused[0]}", "it is paused", f"switch it on at {session.page}/dags/{paused[0]}"
        )


def _run(row: Mapping[str, Any]) -> Run:
    return Run(row["dag_id"], row["dag_run_id"], row["state"], row.get("partition_key"), row.get("duration"))


def trigger(session: Airflow, dag: str, conf: Mapping[str, Any]) -> Run:
    return _run(ask(session, "POST", f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": dict(conf)}))


def runs(session: Airflow, dag: str) -> list[Run]:
    """The newest hundred."""
    rows = ask(session, "GET", f"/dags/{dag}/dagRuns", order_by="-run_after", limit=100)["dag_runs"]
    return [_run(row) for row in rows]


def _run_path(run: Run) -> str:
    return f"/dags/{run.dag}/dagRuns/{quote(run.id, safe='')}"


def tasks(session: Airflow, run: Run) -> list[dict[str, Any]]:
    return list(ask(session, "GET", f"{_run_path(run)}/taskInstances", limit=100)["task_instances"])


def result(session: Airflow, run: Run, task: str, map_index: int = -1) -> Any:
    """What a task returned."""
    path = f"{_run_path(run)}/taskInstances/{task}/xcomEntries/return_value"
    value = ask(session, "GET", path, map_index=map_index)["value"]
    if isinstance(value, str):
        try:
            return plain(json.loads(value))
        except ValueError:
            return value
    return plain(value)


def plain(value: Any) -> Any:
    """A result without Airflow's wrapping of tuples and sets: {"__classname__": …, "__data__": [...]} is the list."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__classname__" in value and "__data__" in value:
        return plain(value["__data__"])
    return {key: plain(item) for key, item in value.items()}


def follow(session: Airflow, run: Run, say: Say) -> Run:
    """Wait for the end of a run, saying what its tasks do. Raises DemoFailed with the log of the task that failed."""
    states: dict[tuple[str, int], str] = {}
    spoke = time.monotonic()
    while True:
        for row in tasks(session, run):
            key, state = (row["task_id"], row["map_index"]), row["state"] or "waiting"
            before = states.get(key)
            states[key] = state
            worth_saying = state in ("running", "deferred", "success", "failed", "up_for_retry")
            if state != before and worth_saying:
                say(f"{run.dag}: {_task_name(row)} {state.replace('_', ' ')}")
                spoke = time.monotonic()
                if state == "up_for_retry":
                    for line in _log_lines(session, run, row):
                        say(f"    {line}")
        run = _run(ask(session, "GET", _run_path(run)))
        if run.state in ENDED:
            break
        if time.monotonic() - spoke > STILL_RUNNING_S:
            active = [
                name for (name, _), state in states.items() if state in ("running", "deferred", "queued")
            ]
            say(f"{run.dag}: still at {', '.join(sorted(set(active))) or 'its next task'}")
            spoke = time.monotonic()
        time.sleep(POLL_S)
    if run.state == "failed":
        raise _run_failed(session, run)
    return run


def _task_name(row: Mapping[str, Any]) -> str:
    shown = row.get("rendered_map_index")
    index = row["map_index"]
    return f"{row['task_id']} [{shown or index}]" if index >= 0 else str(row["task_id"])


def _run_failed(session: Airflow, run: Run) -> DemoFailed:
    failed = [row for row in tasks(session, run) if row["state"] == "failed"]
    page = f"{session.page}/dags/{run.dag}/runs/{quote(run.id, safe='')}"
    if not failed:
        return DemoFailed(f"the run {run.id} of {run.dag}", "it failed", f"see {page}")
    lines = _log_lines(session, run, failed[0])
    shown = "".join(f"\n    {line}" for line in lines)
    return DemoFailed(
        f"the task {_task_name(failed[0])} of {run.dag}", f"its log ends with:{shown}", f"see {page}"
    )


def _log_lines(session: Airflow, run: Run, row: Mapping[str, Any]) -> list[str]:
    """What a try of a task logged as errors; the end of its log when it logged none."""
    path = f"{_run_path(run)}/taskInstances/{row['task_id']}/logs/{max(row['try_number'], 1)}"
    try:
        content = ask(session, "GET", path, map_index=row["map_index"], full_content=True)["content"]
    except DemoFailed as error:
        return [f"(no log: {error.why})"]
    errors: list[str] = []
    others: list[str] = []
    for entry in content if isinstance(content, list) else [content]:
        if not isinstance(entry, dict):
            others += str(entry).splitlines()
            continue
        details = [
            f"{detail.get('exc_type')}: {detail.get('exc_value')}"
            for detail in entry.get("error_detail") or ()
        ]
        for detail in details:
            errors += detail.splitlines()
        others += str(entry.get("event", "")).splitlines()
    shown = errors or [line for line in others if not line.startswith("::")]
    return [line for line in shown if line.strip()][-LOG_LINES:]


def new_run(
    session: Airflow, dag: str, known: set[str], partition_key: str, say: Say, patience_s: float = 180.0
) -> Run:
    """The run that an asset event starts: with this key, and not among the known. Raises DemoFailed when none comes."""
    until = time.monotonic() + patience_s
    say(f"{dag}: waiting for the event {partition_key[:40]}… to start it")
    while True:
        for run in runs(session, dag):
            if run.id not in known and run.partition_key == partition_key:
                return run
        if time.monotonic() > until:
            raise DemoFailed(
                f"{dag} for {partition_key}",
                f"no event started it in {patience_s:.0f} s",
                f"see the assets at {session.page}/assets and the log of airflow",
            )
        time.sleep(POLL_S)
