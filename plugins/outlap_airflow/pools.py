"""One pool per link between two IDCs, so that syncs do not fight for the same line, and one for trainings.

The scheduler makes them when it starts (this module is a listener of the plugin). The local stack may make them
earlier: `python -m outlap_airflow.pools FILE` writes the file that `airflow pools import` reads.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl

from lake.config import Config, load_config
from outlap_airflow.settings import airflow_settings, destinations

TRAINING_POOL = "training"


def link_pool(source: str, destination: str) -> str:
    """The name of the pool of a link."""
    return f"sync_{source}_{destination}"


def pools(config: Config) -> dict[str, dict[str, Any]]:
    """What `airflow pools import` reads: name → slots, description, include_deferred."""
    settings = airflow_settings(config)
    slots = settings.link_slots
    links = {
        link_pool(config.idc, idc): {
            "slots": slots,
            "description": f"Syncs from {config.idc} to {idc}",
            "include_deferred": True,
        }
        for idc in destinations(config)
    }
    training = {
        "slots": settings.training_slots,
        "description": "Trainings that run",
        "include_deferred": True,
    }
    return {TRAINING_POOL: training, **links}


def write_pools_file(config: Config, path: Path) -> Path:
    """Write the file for `airflow pools import`."""
    path.write_text(json.dumps(pools(config), indent=2) + "\n", encoding="utf-8")
    return path


def ensure_pools(config: Config | None = None) -> list[str]:
    """Make the pools in Airflow's database; a pool that is there keeps the slots that someone gave it. Idempotent."""
    from airflow.models.pool import Pool

    made = []
    for name, pool in pools(config or load_config()).items():
        if Pool.get_pool(name) is None:
            Pool.create_or_update_pool(name, **pool)
            made.append(name)
    return made


@hookimpl
def on_starting(component: Any) -> None:
    """A task whose pool is missing would wait for ever, so the scheduler makes them before its first decision."""
    if type(component).__name__ == "Job":
        ensure_pools()


if __name__ == "__main__":
    write_pools_file(load_config(), Path(sys.argv[1]))
