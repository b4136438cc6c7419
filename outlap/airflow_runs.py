"""Which runs of Airflow did something with a version: asked of Outlap's own API there, where it can be reached.

$OUTLAP_AIRFLOW_URL and $OUTLAP_AIRFLOW_TOKEN (a token of /auth/token) say where; else the local stack, while it is up.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import httpx

from cacheengine.answers import error_from
from lake.config import home
from outlap.errors import NotHere

TIMEOUT_S = 20.0


def runs_of(dataset: str, version: str) -> list[dict[str, Any]]:
    """Runs as /outlap/api/v1/datasets/…/runs has them. Raises NotHere when no Airflow can be asked; what Airflow answers."""
    return _ask(f"datasets/{quote(dataset)}/versions/{version}/runs")


def versions_of_run(dag: str, run: str) -> list[dict[str, Any]]:
    """What a run did. Raises as `runs_of`."""
    return _ask(f"runs/{quote(dag, safe='')}/{quote(run, safe='')}")


def _ask(path: str) -> list[dict[str, Any]]:
    url, headers = _reach()
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
            if "Authorization" not in headers:
                _login(client)
            answer = client.get(f"/outlap/api/v1/{path}")
    except httpx.TransportError as error:
        raise NotHere(
            f"Airflow at {url}", f"it does not answer: {type(error).__name__}", "see `outlap status`"
        ) from error
    if answer.status_code != 200:
        raise error_from(answer.status_code, answer.content, f"{url}/outlap/api/v1/{path}")
    return list(answer.json()["runs"])


def _reach() -> tuple[str, dict[str, str]]:
    url = os.environ.get("OUTLAP_AIRFLOW_URL")
    if url:
        token = os.environ.get("OUTLAP_AIRFLOW_TOKEN", "")
        return url.rstrip("/"), {"Authorization": f"Bearer {token}"}
    from outlap.stack.layout import Layout
    from outlap.stack.record import read_record

    for program in read_record(Layout(home())):
        if program.kind == "airflow":
            return program.address, {}
    raise NotHere(
        "Airflow",
        "no local stack is up, and $OUTLAP_AIRFLOW_URL is not set",
        "start it (`outlap up`), or set $OUTLAP_AIRFLOW_URL and $OUTLAP_AIRFLOW_TOKEN",
    )


def _login(client: httpx.Client) -> None:
    from outlap.stack import secrets
    from outlap.stack.layout import Layout

    login = {"username": secrets.AIRFLOW_USER, "password": secrets.airflow_password(Layout(home()))}
    answer = client.post("/auth/token", json=login)
    if answer.status_code != 201:
        raise NotHere(
            "a token of Airflow", f"it answers {answer.status_code}", "run `outlap down`, then `outlap up`"
        )
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
