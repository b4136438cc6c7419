"""Publishing a dataset and announcing it. Plain functions: the DAGs wrap them in tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lake.config import load_config
from lake.errors import Conflict
from outlap_airflow.assets import dataset_published, published_key
from outlap_airflow.faults import told
from outlap_airflow.settings import scratch_folder


@told(Conflict)
def publish(dataset: str, query: str, tag: str | None, dag_id: str, run_id: str) -> dict[str, Any]:
    """Publish the rows of a query; the JSON of Published, and `mine`: this run made the version, now or in an earlier try.

    Conflict is tried again here: it means that someone else published the dataset in the same moment.
    """
    from lake import refs
    from lake.publish import publish_query
    from lake.stores import lake_store

    config = load_config()
    lake = lake_store(config)
    origin = {"by": "airflow", "dag": dag_id, "run": run_id, "idc": config.idc}
    with scratch_folder(config) as scratch:
        published = publish_query(lake, dataset, query, scratch, origin, tag)
    made_by = refs.resolve(lake, dataset, published.version).origin
    return {**asdict(published), "mine": made_by.get("dag") == dag_id and made_by.get("run") == run_id}


def worth_announcing(published: Mapping[str, Any], announce: str) -> bool:
    """`always`, or `new`: not for a version that was `latest` before this run. A try that died between publishing and
    announcing still counts as new."""
    return announce == "always" or bool(published["is_new"] or published["mine"])


@told()
def announce(published: Mapping[str, Any], outlet_events: Any) -> str:
    """Give the event of this task its key and its details; the key."""
    key = published_key(published["dataset"], published["version"])
    event = outlet_events[dataset_published]
    event.extra = {
        name: published[name] for name in ("dataset", "tag", "version", "files", "bytes", "is_new")
    }
    event.add_partitions(key)
    return key
