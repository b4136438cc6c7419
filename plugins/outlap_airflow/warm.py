"""What to warm and what to free. Plain functions: the DAGs wrap them in tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from lake.config import Config, load_config
from lake.errors import Refused
from outlap_airflow.assets import parse_synced
from outlap_airflow.faults import told
from outlap_airflow.settings import airflow_settings, destinations


def cache_idcs(config: Config, idc: str | None = None) -> list[str]:
    """The IDCs whose cache group is meant: the named one, or every destination with one. Raises Refused, NotFound."""
    if idc:
        if config.idc_named(idc).control is None:
            raise Refused(f"the IDC {idc!r}", "it has no control service", f"set [idc.{idc}] control")
        return [idc]
    return [name for name in destinations(config) if config.idc_named(name).control is not None]


@told()
def requests(kind: str, partition_key: str | None, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arguments of Warm or Free for each IDC, of the event that started the run or of the form.

    Raises AirflowSkipException for an event of an IDC without a cache group, Refused for a form that names nothing.
    """
    config = load_config()
    nodes = params.get("nodes") or airflow_settings(config).nodes
    if partition_key:
        asked = parse_synced(partition_key)
        if config.idc_named(asked.idc).control is None:
            raise AirflowSkipException(f"{asked.idc} has no control service, so there is nothing to {kind}")
        return [{"idc": asked.idc, "dataset": asked.dataset, "ref": asked.version, "nodes": nodes}]
    if not params["dataset"]:
        raise Refused("this run", "it names no dataset", "fill in the form, or let a sync start it")
    idcs = cache_idcs(config, params.get("idc"))
    if not idcs:
        raise Refused("this run", "no destination IDC has a control service", "set [idc.NAME] control")
    fixed: dict[str, Any] = {"dataset": params["dataset"], "ref": params["ref"], "nodes": nodes}
    if params.get("files"):
        fixed["files"] = list(params["files"])
    if kind == "warm" and params.get("pin"):
        fixed["pin"] = True
    if kind == "free" and params.get("force"):
        fixed["force"] = True
    return [{"idc": idc, **fixed} for idc in idcs]
