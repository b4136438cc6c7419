"""Quarantine: what was refused, by which rule, with the evidence. One entry a drive."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from lake import stores
from lake.canonical import read_json
from lake.errors import Corrupt, NotFound
from lake.names import check_part
from lake.stores import Store

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """What a rule found. inferred: concluded from circumstances, not read from the file itself."""

    rule: str
    severity: Severity
    file: str
    evidence: str
    inferred: bool = False


@dataclass(frozen=True)
class Entry:
    """A refused drive. fingerprint: of its COMPLETE.json, so that a corrected upload is told from the refused one."""

    vehicle: str
    drive: str
    findings: tuple[Finding, ...]
    fingerprint: str
    at_ns: int


def _key(vehicle: str, drive: str) -> str:
    return f"quarantine/{check_part('the vehicle', vehicle)}/{check_part('the drive', drive)}.json"


def add(store: Store, vehicle: str, drive: str, findings: Sequence[Finding], fingerprint: str) -> Entry:
    """Write the entry of a drive, over an older one."""
    entry = Entry(vehicle, drive, tuple(findings), fingerprint, time.time_ns())
    known = read(store, vehicle, drive)
    if known is not None and (known.findings, known.fingerprint) == (entry.findings, fingerprint):
        return known  # told before: the time of the first refusal stays
    stores.put(store, _key(vehicle, drive), json.dumps(asdict(entry), ensure_ascii=False, indent=1).encode())
    return entry


def read(store: Store, vehicle: str, drive: str) -> Entry | None:
    """The entry of a drive, None when it is not in quarantine."""
    key = _key(vehicle, drive)
    try:
        return from_json(stores.get(store, key), key)
    except NotFound:
        return None


def from_json(data: bytes, key: str) -> Entry:
    """An entry as it was written. Raises Corrupt, naming the key."""
    value = read_json(data, key)
    try:
        findings = tuple(Finding(**item) for item in value["findings"])
        return Entry(value["vehicle"], value["drive"], findings, value["fingerprint"], value["at_ns"])
    except (KeyError, TypeError) as error:
        raise Corrupt(
            key, f"it is no quarantine entry: {error}", "delete it and ingest the drive again"
        ) from error


def names(store: Store) -> list[tuple[str, str]]:
    """(vehicle, drive) of all refused drives, sorted, from the keys alone."""
    parts = (info.key.split("/") for info in stores.list_objects(store, "quarantine/"))
    return sorted(
        (one[1], one[2].removesuffix(".json")) for one in parts if len(one) == 3 and one[2].endswith(".json")
    )


def entries(store: Store) -> list[Entry]:
    """All refused drives, by vehicle and drive."""
    return [entry for pair in names(store) if (entry := read(store, *pair)) is not None]


def clear(store: Store, vehicle: str, drive: str) -> None:
    """Forget the entry: the drive was uploaded again and taken."""
    stores.delete(store, _key(vehicle, drive))
