"""Troubles that were told and have not ended, for the head of every page."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from lake.errors import Corrupt
from outlap_airflow import alerts
from outlap_airflow.pages.sources import FRESH_S, LIMIT_S, Sources, read_changed, told

MAX_ROWS = 100


def list_open(src: Sources) -> dict[str, Any]:
    """List the open alerts of this IDC's lake, newest first.

    Args:
        src: Where stores are.

    Returns:
        rows: [{id, kind, title, since_ns}], MAX_ROWS at most; total; services: what does not answer.
    """
    idc = src.config.idc
    key = ("the alerts of", idc)
    answer = src.memory.asked.ask({key: lambda: _read(src)}, FRESH_S, LIMIT_S)[key]
    rows = sorted(answer.value or (), key=lambda row: (-(row["since_ns"] or 0), row["id"]))
    return {"rows": rows[:MAX_ROWS], "total": len(rows), "services": told([(idc, answer)])}


def _read(src: Sources) -> list[dict[str, Any]]:
    return list(read_changed(src.memory, src.lake(src.config.idc), alerts.PREFIX, _row).values())


def _row(data: bytes, key: str) -> dict[str, Any]:
    """Raises Corrupt."""
    try:
        value = json.loads(data)
        since = datetime.fromisoformat(str(value["since"]))
        row = {name: str(value[name]) for name in ("id", "kind", "title")}
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(key, f"it is no alert: {error!r}") from error
    return {**row, "since_ns": int(since.timestamp()) * 10**9}
