"""Quarantine: what was refused, by which rule, with the evidence. One entry a drive.

quarantine/<vehicle>/<drive>.json     the entry
dismissed/<vehicle>/<drive>.json      the entry of a drive that a person dismissed: no longer listed, and not tried again until
                                      it is uploaded with other content, or somebody asks for it
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from lake import stores
from lake.canonical import read_json
from lake.errors import Corrupt, NotFound
from lake.names import check_part
from lake.stores import Store
from lake.unreadable import Unreadable, read_each

UNREADABLE = "unreadable-entry"
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
    """A refused drive. fingerprint: of its COMPLETE.json, so that a corrected upload is told from the refused one.

    dismissed_by, dismissed_ns: who dismissed it and when; "" and 0 where nobody did.
    """

    vehicle: str
    drive: str
    findings: tuple[Finding, ...]
    fingerprint: str
    at_ns: int
    dismissed_by: str = ""
    dismissed_ns: int = 0


def _dismissed_key(vehicle: str, drive: str) -> str:
    return f"dismissed/{check_part('the vehicle', vehicle)}/{check_part('the drive', drive)}.json"


def keys_of(vehicle: str, drive: str) -> tuple[str, str]:
    """The keys that an entry of a drive may have: in quarantine, and dismissed."""
    return _key(vehicle, drive), _dismissed_key(vehicle, drive)


def _key(vehicle: str, drive: str) -> str:
    return f"quarantine/{check_part('the vehicle', vehicle)}/{check_part('the drive', drive)}.json"


def add(store: Store, vehicle: str, drive: str, findings: Sequence[Finding], fingerprint: str) -> Entry:
    """Write the entry of a drive, over an older one."""
    entry = Entry(vehicle, drive, tuple(findings), fingerprint, time.time_ns())
    try:
        known = read(store, vehicle, drive)
    except Corrupt:
        known = None  # it is written anew
    if known is not None and (known.findings, known.fingerprint) == (entry.findings, fingerprint):
        return known  # told before: the time of the first refusal stays
    stores.put(store, _key(vehicle, drive), _bytes(entry))
    stores.delete(store, _dismissed_key(vehicle, drive))  # it was tried again since, and is refused again
    return entry


def _bytes(entry: Entry) -> bytes:
    return json.dumps(asdict(entry), ensure_ascii=False, indent=1).encode()


def read(store: Store, vehicle: str, drive: str) -> Entry | None:
    """The entry of a drive, None when it is not in quarantine."""
    return _read(store, _key(vehicle, drive))


def read_dismissed(store: Store, vehicle: str, drive: str) -> Entry | None:
    """The entry of a drive that was dismissed, None when nobody dismissed it."""
    return _read(store, _dismissed_key(vehicle, drive))


def _read(store: Store, key: str) -> Entry | None:
    try:
        return from_json(stores.get(store, key), key)
    except NotFound:
        return None


def from_json(data: bytes, key: str) -> Entry:
    """An entry as it was written. Raises Corrupt, naming the key."""
    value = read_json(data, key)
    try:
        findings = tuple(Finding(**item) for item in value["findings"])
        dismissed = (str(value.get("dismissed_by", "")), int(value.get("dismissed_ns", 0)))
        return Entry(
            value["vehicle"], value["drive"], findings, value["fingerprint"], value["at_ns"], *dismissed
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            key, f"it is no quarantine entry: {error}", "delete it and ingest the drive again"
        ) from error


def names(store: Store) -> list[tuple[str, str]]:
    """(vehicle, drive) of all refused drives, sorted, from the keys alone."""
    return _names(store, "quarantine/")


def dismissed_names(store: Store) -> list[tuple[str, str]]:
    """(vehicle, drive) of all dismissed drives, sorted, from the keys alone."""
    return _names(store, "dismissed/")


def _names(store: Store, prefix: str) -> list[tuple[str, str]]:
    parts = (info.key.split("/") for info in stores.list_objects(store, prefix))
    return sorted(
        (one[1], one[2].removesuffix(".json")) for one in parts if len(one) == 3 and one[2].endswith(".json")
    )


def _readable(
    load: Callable[[Store, str, str], Entry | None], store: Store, vehicle: str, drive: str
) -> Entry | None:
    """An entry that cannot be read is one whose finding says so: it can be shown, dismissed, and tried again."""
    try:
        return load(store, vehicle, drive)
    except Corrupt as error:
        finding = Finding(UNREADABLE, "error", error.what, error.why, inferred=True)
        return Entry(vehicle, drive, (finding,), "", 0)


def entries(store: Store, unreadable: list[Unreadable] | None = None) -> list[Entry]:
    """Read the entries of all refused drives.

    Args:
        store: the lake.
        unreadable: takes the entries that cannot be read; None raises Corrupt for the first one.

    Returns:
        The entries that can be read, by vehicle and drive.
    """
    keys = [f"quarantine/{vehicle}/{drive}.json" for vehicle, drive in names(store)]
    return read_each(keys, lambda key: from_json(stores.get(store, key), key), unreadable)


def dismissed(store: Store) -> list[Entry]:
    """All dismissed drives, by vehicle and drive."""
    found = (_readable(read_dismissed, store, *pair) for pair in dismissed_names(store))
    return [entry for entry in found if entry is not None]


def dismiss(store: Store, vehicle: str, drive: str, by: str) -> Entry:
    """Take a refused drive out of the quarantine without ingesting it. Harmless to repeat.

    Args:
        store: The lake.
        vehicle: Of the drive.
        drive: Its name.
        by: Who dismisses it.

    Returns:
        The entry, dismissed.

    Raises:
        NotFound: It is not in quarantine.
    """
    entry = _readable(read, store, vehicle, drive)
    if entry is None:
        known = read_dismissed(store, vehicle, drive)
        if known is not None:
            return known
        raise NotFound(
            f"the drive {vehicle}/{drive}", "it is not in quarantine", "see `outlap quarantine ls`"
        )
    done = replace(entry, dismissed_by=by, dismissed_ns=time.time_ns())
    # in this order: killed between the two, it is in quarantine still
    stores.put(store, _dismissed_key(vehicle, drive), _bytes(done))
    stores.delete(store, _key(vehicle, drive))
    return done


def clear(store: Store, vehicle: str, drive: str) -> None:
    """Forget the entry: the drive was uploaded again and taken."""
    for key in keys_of(vehicle, drive):
        stores.delete(store, key)
