"""Whether a program does its work, asked over HTTP as its users would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import httpx

from outlap.stack.programs import Kind

TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Health:
    """detail: one line for a person, "" when there is nothing to say. known: False where who would know does not answer."""

    healthy: bool
    detail: str = ""
    known: bool = True


class Checked(Protocol):
    """What is asked: a program of the stack, or its record."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def health(self) -> str: ...


def _airflow(answer: httpx.Response, part: str) -> Health:
    """Airflow's own report on a part of it: https://airflow.apache.org/docs/ (monitor/health)."""
    try:
        found = answer.json().get(part)
        status = "not started" if found is None else found.get("status") or "not started"
    except (ValueError, AttributeError):
        return Health(False, "its health page is not what it should be")
    return Health(status == "healthy", "" if status == "healthy" else f"{part} {status}")


def check(program: Checked, client: httpx.Client) -> Health:
    """Ask whether a program does its work; never raises, because an answer that does not come is a state too.

    The parts of Airflow tell their health in its database, and its API server reads it: where that does not answer, nothing is known
    of them.
    """
    found, answer = _ask(program.health, client)
    if program.kind == "airflow-part":
        if answer is None:
            return Health(False, f"the API server of Airflow {found.detail}", known=False)
        return _airflow(answer, program.name.removeprefix("airflow-").replace("-", "_"))
    if answer is None:
        return found
    return _airflow(answer, "metadatabase") if program.kind == "airflow" else Health(True, _problems(answer))


def _ask(url: str, client: httpx.Client) -> tuple[Health, httpx.Response | None]:
    """(what is wrong, None), or (healthy, the answer of 200)."""
    try:
        answer = client.get(url)
    except httpx.ConnectError:
        return Health(False, "does not listen yet"), None
    except httpx.HTTPError as error:
        return Health(False, f"does not answer: {type(error).__name__}"), None
    if answer.status_code != 200:
        return Health(False, f"answers {answer.status_code}: {' '.join(answer.text.split())[:160]}"), None
    return Health(True), answer


def _problems(answer: httpx.Response) -> str:
    """Parts that fail just now, of a program that works all the same: `problems` of control's and agents' /healthz."""
    try:
        problems = answer.json()["problems"]
        return "; ".join(f"{part}: {cause}" for part, cause in problems.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def local_client(timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """For addresses of this machine: no proxy of the caller's environment stands in between."""
    return httpx.Client(timeout=timeout_s, trust_env=False)
