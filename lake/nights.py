"""Nights: what a nightly run considered, so that a missed night is caught up, and one that is run again finds what it found.

    nights/<until, UTC>.json     {"until_ns", "since_ns", "snapshot", "fixed_ns"}

A night is named by the moment that its drives had to be uploaded before, in UTC: no clock change can make two nights one. It begins
where the night before ended, however long ago that was. Its record is written once, after ingest and before anything is published: it
keeps which files the catalogue had then (lake/snapshots.py), and every publish of that night asks those.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lake import stores
from lake.canonical import canonical_json, is_hash, read_json
from lake.catalog import files_now
from lake.errors import Corrupt, NotFound, Refused
from lake.snapshots import keep_snapshot
from lake.stores import Store

PREFIX = "nights/"
NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Night:
    """until_ns, since_ns: of the uploads it considered; snapshot: of the catalogue after its ingest; fixed_ns: when that was."""

    name: str
    until_ns: int
    since_ns: int
    snapshot: str
    fixed_ns: int


def night_name(until_ns: int) -> str:
    """The moment in UTC, to the microsecond: names in order are nights in order."""
    moment = EPOCH + timedelta(microseconds=until_ns // 1000)
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


def _key(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise Refused(f"the night {name[:80]!r}", "a night reads like 2026-03-29T00:00:00.000000Z")
    return f"{PREFIX}{name}.json"


def names(store: Store) -> list[str]:
    """All nights that were fixed, oldest first."""
    found = (
        info.key.removeprefix(PREFIX).removesuffix(".json") for info in stores.list_objects(store, PREFIX)
    )
    return sorted(name for name in found if NAME.fullmatch(name))


def read(store: Store, name: str) -> Night | None:
    """The record of a night, None before it was fixed. Raises Corrupt."""
    key = _key(name)
    try:
        value = read_json(stores.get(store, key), key)
    except NotFound:
        return None
    try:
        night = Night(name, value["until_ns"], value["since_ns"], value["snapshot"], value["fixed_ns"])
    except (KeyError, TypeError) as error:
        raise Corrupt(key, f"it is no record of a night: {error!r}") from error
    if night_name(night.until_ns) != name or not is_hash(str(night.snapshot)):
        raise Corrupt(key, "it speaks of another night, or of no snapshot")
    return night


def around(known: Sequence[str], name: str) -> tuple[str | None, str | None]:
    """(the last night before, the first one after) among names in order."""
    before = [other for other in known if other < name]
    after = [other for other in known if other > name]
    return (before[-1] if before else None), (after[0] if after else None)


def since_of(store: Store, name: str) -> int:
    """Where a night begins: where the one before it ended; 0 for the first."""
    before, _ = around(names(store), name)
    found = read(store, before) if before is not None else None
    return found.until_ns if found is not None else 0


def fix(store: Store, until_ns: int, since_ns: int) -> Night:
    """Write down what the catalogue has now as what this night has; the record of before when there is one. Raises NotFound
    while the catalogue is empty."""
    name = night_name(until_ns)
    known = read(store, name)
    if known is not None:
        return known
    files = files_now(store)
    if not files:
        raise NotFound(f"the catalogue of store {store.name}", "it has no frames yet", "ingest a drive first")
    snapshot = keep_snapshot(store, files)
    value = {"until_ns": until_ns, "since_ns": since_ns, "snapshot": snapshot, "fixed_ns": time.time_ns()}
    stores.put_if_absent(store, _key(name), canonical_json(value))
    made = read(store, name)  # of two at once, the first one's
    assert made is not None
    return made
