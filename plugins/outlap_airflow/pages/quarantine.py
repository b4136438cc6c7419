"""Refused drives: by which rules, with what evidence; another try, or none any more."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lake import quarantine
from lake.errors import NotFound
from lake.quarantine import Entry
from outlap_airflow.pages import runs
from outlap_airflow.pages.listing import Asking, Row, cut, matching, ordered
from outlap_airflow.pages.sources import FRESH_S, LIMIT_S, Sources, read_changed, told

DAG_ID = "ingest_drives"
FIRST_FINDINGS = 3


def list_refused(src: Sources, asking: Asking, rule: str = "", vehicle: str = "") -> dict[str, Any]:
    """One row a drive, those refused last first, with its first findings; and how many drives each rule refused."""
    idc = src.config.idc
    key = ("the store of", idc, "quarantine")
    answer = src.memory.asked.ask({key: lambda: _read(src)}, FRESH_S, LIMIT_S)[key]
    rows = [_row(entry) for entry in answer.value or ()]
    rules = Counter(name for row in rows for name in row["rules"])
    vehicles = sorted({row["vehicle"] for row in rows})
    rows = [row for row in rows if vehicle in ("", row["vehicle"]) and (not rule or rule in row["rules"])]
    rows = matching(rows, asking.search, ("drive", "vehicle", "rules", "evidence"))
    orders: dict[str, Any] = {
        "at_ns": lambda row: row["at_ns"],
        "drive": lambda row: (row["vehicle"], row["drive"]),
        "rule": lambda row: row["rules"],
        "findings": lambda row: row["findings_total"],
    }
    if not asking.sort:
        rows.sort(key=lambda row: -row["at_ns"])
    else:
        rows = ordered(rows, asking, orders)
    page = cut(rows, asking)
    tries = _tries() if page["rows"] else {}
    for row in page["rows"]:
        del row["evidence"]
        row["run"] = tries.get(_prefix(row["vehicle"], row["drive"]))
    return {
        **page,
        "rules": dict(rules.most_common()),
        "vehicles": vehicles,
        "services": told([(idc, answer)]),
    }


def show_refused(src: Sources, vehicle: str, drive: str) -> dict[str, Any]:
    """Everything that was found in one drive, errors first. Raises NotFound, Refused."""
    entry = quarantine.read(src.lake(src.config.idc), vehicle, drive)
    if entry is None:
        raise NotFound(
            f"the drive {vehicle}/{drive}", "it is not in quarantine", "it may have been taken meanwhile"
        )
    row = _row(entry)
    del row["evidence"]
    ordered_findings = sorted(entry.findings, key=lambda found: found.severity != "error")
    return {
        **row,
        "fingerprint": entry.fingerprint,
        "findings": [vars(found) for found in ordered_findings],
        "run": _tries().get(_prefix(vehicle, drive)),
    }


def drive_again(src: Sources, vehicle: str, drive: str, user_name: str) -> runs.Run:
    """Start the ingest run of one refused drive, or give the one that is under way. Raises NotFound, Conflict."""
    show_refused(src, vehicle, drive)
    conf = {"vehicle": vehicle, "drive": drive, "retry_quarantined": True}
    return runs.start(DAG_ID, _prefix(vehicle, drive), conf, user_name)


def dismiss(src: Sources, vehicle: str, drive: str, user_name: str) -> Row:
    """Take a refused drive out of the quarantine without another try. Raises NotFound, Refused."""
    entry = quarantine.dismiss(src.lake(src.config.idc), vehicle, drive, user_name)
    return {
        "vehicle": entry.vehicle,
        "drive": entry.drive,
        "dismissed_by": entry.dismissed_by,
        "dismissed_ns": entry.dismissed_ns,
    }


def _read(src: Sources) -> list[Entry]:
    store = src.lake(src.config.idc)
    return list(read_changed(src.memory, store, "quarantine/", quarantine.from_json).values())


def _prefix(vehicle: str, drive: str) -> str:
    return runs.run_prefix("redrive", vehicle, drive)


def _tries() -> dict[str, runs.Run]:
    """The newest re-drive of each drive, by the beginning of its run id."""
    found: dict[str, runs.Run] = {}
    for run in runs.by_prefix(DAG_ID, "redrive__"):
        found.setdefault(run["run"].rpartition("__")[0] + "__", run)
    return found


def _row(entry: Entry) -> Row:
    errors = [found for found in entry.findings if found.severity == "error"]
    return {
        "vehicle": entry.vehicle,
        "drive": entry.drive,
        "at_ns": entry.at_ns,
        "rules": list(dict.fromkeys(found.rule for found in errors)),
        "errors": len(errors),
        "warnings": len(entry.findings) - len(errors),
        "findings_total": len(entry.findings),
        "first": [vars(found) for found in (errors or entry.findings)[:FIRST_FINDINGS]],
        "evidence": "\n".join(f"{found.file} {found.evidence}" for found in entry.findings),
    }
