"""One night: which uploads it considers, what the catalogue had after them, what it publishes. Plain functions for the DAG's tasks.

Nothing here asks the clock: a night is the moment that its run stands for (lake/nights.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from lake.config import load_config
from lake.errors import NotFound
from outlap_airflow.faults import told
from outlap_airflow.settings import airflow_settings

log = logging.getLogger(__name__)


def until_of(data_interval_end: datetime | None, run_after: datetime) -> int:
    """The moment that a run stands for, in ns: its scheduled one, also when it is run late or again; of a run by hand when it was
    asked for."""
    moment = data_interval_end or run_after
    return round(moment.timestamp() * 1e6) * 1000


@told()
def look(until_ns: int, cut: str, rate_hz: float | None) -> dict[str, Any]:
    """The night and the form of its ingest. Raises AirflowSkipException when a later night has been: it took all there was."""
    from lake import nights
    from lake.stores import lake_store

    lake, name = lake_store(load_config()), nights.night_name(until_ns)
    _, later = nights.around(nights.names(lake), name)
    if later is not None:
        raise AirflowSkipException(
            f"the night {name} is behind us: the night {later} took all that was new by then"
        )
    known = nights.read(lake, name)
    since_ns = known.since_ns if known is not None else nights.since_of(lake, name)
    log.info(
        "the night %s: uploads that ended after %s", name, nights.night_name(since_ns) if since_ns else "all"
    )
    form = {"cut": cut, "rate_hz": rate_hz, "since_ns": since_ns, "until_ns": until_ns}
    return {"night": name, "since_ns": since_ns, "until_ns": until_ns, "ingest": form}


@told()
def publishes(night: Mapping[str, Any], only: str | None) -> list[dict[str, Any]]:
    """Fix what the catalogue has now as what the night has; the arguments of a publish_dataset run for each dataset of the settings.

    A night that is run again gets the catalogue of then. Raises NotFound for a dataset that the settings lack.
    """
    from lake import nights
    from lake.stores import lake_store

    config = load_config()
    known = airflow_settings(config).datasets
    chosen = [item for item in known if only is None or item.name == only]
    if only is not None and not chosen:
        names = ", ".join(item.name for item in known) or "none"
        raise NotFound(f"the dataset {only!r}", f"[[airflow.datasets]] has: {names}", "add it to outlap.toml")
    if not chosen:
        return []
    try:
        fixed = nights.fix(lake_store(config), night["until_ns"], night["since_ns"])
    except NotFound as error:
        log.info("nothing to publish: %s", error)
        return []
    return [
        {
            # the same night is the same run, whoever starts it again
            "trigger_run_id": f"nightly__{item.name}__{fixed.name}",
            "conf": {"dataset": item.name, "query": item.query, "announce": "new", "night": fixed.name},
        }
        for item in chosen
    ]
