"""Bringing a version to other IDCs. Plain functions: the DAG wraps them in tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from airflow.sdk.exceptions import AirflowException

from lake.config import load_config
from lake.errors import Conflict, Refused
from outlap_airflow.assets import dataset_synced, parse_synced, published_key, synced_key
from outlap_airflow.faults import told
from outlap_airflow.settings import airflow_settings, destinations

Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


@told()
def what_to_sync(partition_key: str | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """dataset, ref and idcs: of the event that started the run, or of the form. Raises Refused."""
    known = destinations(load_config())
    if partition_key:
        asked = parse_synced(partition_key)
        dataset, ref, idcs = asked.dataset, asked.version, [asked.idc]
    else:
        dataset, ref = params["dataset"], params["ref"]
        idcs = [params["idc"]] if params["idc"] else list(known)
        if not dataset:
            raise Refused("this run", "it names no dataset", "fill in the form, or let a publish start it")
    unknown = [idc for idc in idcs if idc not in known]
    if unknown or not idcs:
        raise Refused(
            f"the destination {', '.join(unknown) or 'IDC'}",
            f"the settings know as destinations: {', '.join(known) or 'none'}",
            "describe the IDC in outlap.toml, or name another",
        )
    return {"dataset": dataset, "ref": ref, "idcs": idcs}


@told(Conflict)
def sync_to(dataset: str, ref: str, idc: str, report_progress: Progress | None = None) -> dict[str, Any]:
    """Sync to one IDC; the JSON of SyncReport, and source_idc. Raises AirflowException (tried again) when objects could not be copied.

    report_progress(bytes done, all).

    The scratch folder stays after a failure, because the next try goes on where this one ended.
    """
    from cacheengine.fetching import linkshare
    from lake import refs
    from lake.stores import lake_store
    from lake.sync import sync
    from lake.sync_settings import SyncSettings

    config = load_config()
    source, target = lake_store(config), lake_store(config, idc)
    version = refs.resolve(source, dataset, ref).version
    base = airflow_settings(config).scratch or config.home / "scratch"
    scratch = base / "sync" / f"{config.idc}-{idc}" / version
    last = -1

    def progress(done: int, total: int) -> None:
        nonlocal last
        if report_progress is not None:
            report_progress(done, total)
        percent = done * 100 // max(total, 1)
        if percent != last:
            last = percent
            log.info("%s@%s to %s: %d of %d bytes (%d %%)", dataset, version[:12], idc, done, total, percent)

    scratch.mkdir(parents=True, exist_ok=True)
    pace = linkshare.of_sync(config, config.idc, idc, f"{dataset}@{version}")
    report = sync(
        source,
        target,
        dataset,
        version,
        scratch,
        progress,
        pace,
        settings=config.section("sync", SyncSettings),
        waiting=lambda line: log.warning("%s@%s to %s: %s", dataset, version[:12], idc, line),
    )
    for line in report.kept:
        log.warning("%s@%s is in %s; %s", dataset, version[:12], idc, line)
    if report.dead:
        lines = "\n".join(report.dead)
        raise AirflowException(
            f"sync {dataset}@{version[:12]} to {idc}: {len(report.dead)} objects could not be copied, so the version does "
            f"not appear there. Next: it is tried again; what arrived is kept.\n{lines}"
        )
    if not any(scratch.iterdir()):
        scratch.rmdir()
    return {**asdict(report), "source_idc": config.idc}


def announce_synced(report: Mapping[str, Any], idc: str, outlet_events: Any) -> str:
    """Give the event of this task its key and its details; the key."""
    key = synced_key(published_key(report["dataset"], report["version"]), idc)
    event = outlet_events[dataset_synced]
    names = ("dataset", "tag", "version", "packs_copied", "packs_present", "bytes_copied", "seconds")
    event.extra = {"idc": idc, **{name: report[name] for name in names}}
    event.add_partitions(key)
    return key
