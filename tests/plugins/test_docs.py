"""The examples of docs/airflow.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "airflow.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def environment(server: str, **more: str) -> dict[str, str]:
    passwords = json.loads(
        (Path(os.environ["AIRFLOW_HOME"]) / "simple_auth_manager_passwords.json.generated").read_text()
    )
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {**kept, "AIRFLOW": server, "NAME": "ben", "PASSWORD": passwords["ben"], **more}


def test_the_curl_example(server: str, call: Callable[..., httpx.Response]) -> None:
    (script,) = examples("bash")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment(server),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"stage": "queued"' in done.stdout
    assert done.stdout.count('"kind": "added"') == 3
    conf = call("GET", "/api/v2/dags/publish_dataset/dagRuns/api__front-2026-01-02", "ann").json()["conf"]
    assert conf["query"].endswith("where channel = 'CAM_FRONT'")


def test_the_python_example(server: str) -> None:
    script = examples("python")[0]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(server, ONCE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("queued None None")


def test_the_dag_example() -> None:
    code = examples("python")[1] + "\nassert warm.upstream_task_ids == {'announce', 'publish'}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
