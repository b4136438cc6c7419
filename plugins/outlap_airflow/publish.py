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

    A run that made a version before and is run again stays with it, whatever the catalogue has learnt since. Conflict is
    tried again: someone else published the dataset in the same moment.
    """
    from lake.publish import publish_query
    from lake.stores import lake_store

    config = load_config()
    lake = lake_store(config)
    made = _made_by(lake, dataset, dag_id, run_id)
    if made is not None:
        return {**asdict(made), "mine": True}
    origin = {"by": "airflow", "dag": dag_id, "run": run_id, "idc": config.idc}
    with scratch_folder(config) as scratch:
        published = publish_query(lake, dataset, query, scratch, origin, tag)
    return {**asdict(published), "mine": _made_by(lake, dataset, dag_id, run_id) is not None}


def _made_by(lake: Any, dataset: str, dag_id: str, run_id: str) -> Any:
    """The Published of the version that a run made in an earlier try, None when it made none or did not get to the end."""
    from lake import refs
    from lake.publish import Published
    from lake.versions import read_available

    known = refs.list_refs(lake, dataset)
    mine = [ref for ref in known if (ref.origin.get("dag"), ref.origin.get("run")) == (dag_id, run_id)]
    numbered = [ref for ref in mine if refs.NUMBERED.fullmatch(ref.tag)]
    highest = max((int(ref.tag[1:]) for ref in known if refs.NUMBERED.fullmatch(ref.tag)), default=0)
    moved = any(ref.tag == refs.LATEST for ref in mine)
    # the newest number without `latest` on it: the earlier try died between the two, so publishing goes on
    if not numbered or (numbered[0].tag == f"v{highest}" and not moved):
        return None
    ref = numbered[0]
    there = read_available(lake, ref.version)
    return Published(dataset, ref.tag, ref.version, there.files, there.bytes, 0, 0, False)


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
