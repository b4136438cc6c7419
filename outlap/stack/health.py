"""Whether a program does its work, asked over HTTP as its users would."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from outlap.stack.programs import Kind

TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Health:
    """healthy; detail: one line for a person, "" when there is nothing to say."""

    healthy: bool
    detail: str = ""


def _airflow(answer: httpx.Response) -> Health:
    """Airflow's own report on its parts: https://airflow.apache.org/docs/ (monitor/health)."""
    try:
        parts = answer.json()
        ill = [
            f"{name} {part.get('status') or 'not started'}"
            for name, part in parts.items()
            if part is not None and part.get("status") != "healthy"
        ]
    except (ValueError, AttributeError):
        return Health(False, "its health page is not what it should be")
    return Health(not ill, ", ".join(ill))


def check(kind: Kind, url: str, client: httpx.Client) -> Health:
    """Never raises: an answer that does not come is a state too."""
    try:
        answer = client.get(url)
    except httpx.ConnectError:
        return Health(False, "does not listen yet")
    except httpx.HTTPError as error:
        return Health(False, f"does not answer: {type(error).__name__}")
    if answer.status_code != 200:
        return Health(False, f"answers {answer.status_code}: {' '.join(answer.text.split())[:160]}")
    return _airflow(answer) if kind == "airflow" else Health(True, _problems(answer))


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
