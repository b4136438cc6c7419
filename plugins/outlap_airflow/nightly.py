"""What the nightly DAG publishes."""

from __future__ import annotations

import re
from typing import Any

from lake.config import load_config
from lake.errors import NotFound
from outlap_airflow.faults import told
from outlap_airflow.settings import airflow_settings


@told()
def publishes(run_id: str, only: str | None) -> list[dict[str, Any]]:
    """Arguments of a publish_dataset run for each dataset of the settings. Raises NotFound for one that they lack."""
    known = airflow_settings(load_config()).datasets
    chosen = [item for item in known if only is None or item.name == only]
    if only is not None and not chosen:
        names = ", ".join(item.name for item in known) or "none"
        raise NotFound(f"the dataset {only!r}", f"[[airflow.datasets]] has: {names}", "add it to outlap.toml")
    return [
        {
            "trigger_run_id": re.sub(r"[^A-Za-z0-9_.~:+-]", "-", f"nightly__{item.name}__{run_id}"),
            "conf": {"dataset": item.name, "query": item.query, "announce": "new"},
        }
        for item in chosen
    ]
