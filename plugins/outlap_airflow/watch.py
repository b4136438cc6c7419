"""What is wrong now: refused drives, versions that other IDCs lack, disks and nodes and control services that are down.

Plain functions that give Alerts; the DAG `watch` settles them (outlap_airflow.alerts).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from lake.config import Config, load_config
from lake.errors import Explained, StoreDown
from outlap_airflow.alerts import Alert, settle
from outlap_airflow.settings import airflow_settings, destinations

KINDS = ("quarantine", "sync-lag", "disk", "node", "control", "store")
DAY_NS = 24 * 3600 * 10**9
FEW_DRIVES = 5

log = logging.getLogger(__name__)


def look(now_ns: int | None = None) -> dict[str, list[str]]:
    """See what is wrong, tell what is new, end what is over. A part that cannot be looked at is a trouble of its own."""
    config, now_ns = load_config(), time.time_ns() if now_ns is None else now_ns
    seen, looked = list[Alert](), list[str]()
    try:
        seen += quarantine_rate(config, now_ns) + sync_lag(config, now_ns)
        looked += ["quarantine", "sync-lag", "store"]
    except StoreDown as error:
        seen.append(Alert(f"store/{config.idc}", f"the lake of {config.idc} is away", str(error)))
    cached, away = cache_groups(config)
    seen += cached
    looked += ["disk", "node", "control"]
    done = settle(seen, looked, config)
    # what hides behind a control service that is away has not ended
    log.info(
        "%d troubles, %d told now, %d ended; away: %s", len(seen), len(done["told"]), len(done["ended"]), away
    )
    return {"open": sorted(alert.id for alert in seen), **done}


def quarantine_rate(config: Config, now_ns: int) -> list[Alert]:
    """Refused drives of the last day against all that were taken or refused in it. Raises StoreDown."""
    from lake import catalog, quarantine, stores
    from lake.stores import lake_store

    lake, since_ns = lake_store(config), now_ns - DAY_NS
    recent = [info for info in stores.list_objects(lake, "quarantine/") if info.modified_ns >= since_ns]
    refused = {tuple(info.key.removesuffix(".json").split("/")[1:]) for info in recent}
    files = [info.key for info in stores.list_objects(lake, catalog.PREFIX) if info.modified_ns >= since_ns]
    taken = {(cut.vehicle, cut.drive) for key in files if (cut := catalog.cut_of(key)) is not None} - refused
    total, limit = len(refused) + len(taken), airflow_settings(config).alerts.quarantine_percent
    if total < FEW_DRIVES or 100 * len(refused) / total <= limit:
        return []
    rules: dict[str, int] = {}
    for pair in sorted(refused)[:100]:
        try:
            entry = quarantine.read(lake, *pair) if len(pair) == 2 else None
        except Explained as error:
            log.warning("%s", error)
            continue
        for rule in {finding.rule for finding in entry.findings} if entry is not None else ():
            rules[rule] = rules.get(rule, 0) + 1
    named = ", ".join(
        f"{rule} ({count})" for rule, count in sorted(rules.items(), key=lambda item: -item[1])[:5]
    )
    percent = 100 * len(refused) / total
    title = f"{len(refused)} of {total} drives of the last day were refused ({percent:.0f} %, the limit is {limit:g} %)"
    return [
        Alert(f"quarantine/{config.idc}", title, f"{title}.\nRules: {named}.\nNext: see `outlap quarantine`.")
    ]


def sync_lag(config: Config, now_ns: int) -> list[Alert]:
    """Datasets whose `latest` another IDC lacks for too long. Raises StoreDown of our own lake."""
    from lake import refs
    from lake.stores import lake_store

    here, limit_s = lake_store(config), airflow_settings(config).alerts.sync_lag_minutes * 60
    found = []
    latest = {name: refs.read_ref(here, name, refs.LATEST) for name in refs.list_datasets(here)}
    for idc in destinations(config):
        try:
            there = lake_store(config, idc)
            for name, ref in latest.items():
                late_s = (now_ns - ref.moved_ns) / 1e9 if ref is not None else 0.0
                if ref is None or late_s <= limit_s:
                    continue
                known = refs.read_ref(there, name, refs.LATEST)
                if known is not None and known.version == ref.version:
                    continue
                title = f"{idc} lacks the latest version of {name} for {late_s / 60:.0f} minutes"
                text = f"{title}: {ref.version[:12]}.\nNext: see the runs of sync_dataset, and `outlap sync {name} --to {idc}`."
                found.append(Alert(f"sync-lag/{idc}/{name}", title, text))
        except StoreDown as error:
            found.append(Alert(f"store/{idc}", f"the lake of {idc} is away", str(error)))
    return found


def cache_groups(config: Config) -> tuple[list[Alert], Sequence[str]]:
    """Disks, nodes and control services that are down, in every IDC with a cache group; and the IDCs that could not be asked.

    What was open in an IDC that cannot be asked stays open: it is given again as it was.
    """
    from cacheengine.client import control_for
    from outlap_airflow.alerts import open_ids

    found, away = list[Alert](), list[str]()
    for idc in sorted(name for name in config.idcs if config.idcs[name].control is not None):
        try:
            with control_for(config, idc) as control:
                nodes = control.nodes()
        except Explained as error:
            away.append(idc)
            found.append(Alert(f"control/{idc}", f"the control service of {idc} is away", str(error)))
            continue
        for node in nodes:
            found += _of_node(idc, node)
    if away:
        try:
            known = open_ids(config)
        except Explained as error:
            log.warning("open alerts cannot be read: %s", error)
            known = []
        hidden = [one for one in known if one.split("/")[0] in ("disk", "node") and one.split("/")[1] in away]
        found += [Alert(one, one, "its control service is away") for one in hidden]
    return found, away


def _of_node(idc: str, node: Any) -> list[Alert]:
    if not node.alive:
        title = f"the node {node.node} of {idc} is silent"
        return [Alert(f"node/{idc}/{node.node}", title, f"{title}.\nNext: see its agent and `outlap nodes`.")]
    found = []
    for directory in node.dirs:
        if directory.state != "normal":
            title = f"the disk {directory.path} of {node.node} in {idc} is {directory.state}"
            text = f"{title}. Its packs are read or made again elsewhere.\nNext: see the log of the agent, replace the disk."
            found.append(Alert(f"disk/{idc}/{node.node}{directory.path}", title, text))
    return found
