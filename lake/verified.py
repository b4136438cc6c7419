"""Verifications: when every byte of a version was last read in a store and found right.

    verified/<dataset>.json     {"version", "at_ns", "available"}: the newest one of a dataset; available: BLAKE3 of the record of
                                availability that was verified, so that a version that was repacked since is vouched for no more

A sync believes of what it did not ask for only a verification that is young enough (`[sync] verified_hours`).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from lake import manifests, stores
from lake.canonical import blake3_hex, is_hash, read_json
from lake.errors import Corrupt, NotFound
from lake.names import check_dataset
from lake.packs import pack_key
from lake.stores import Store
from lake.versions import available_key, read_whole

MAX_AHEAD_S = 300.0  # the clock of whoever verified may be ahead of ours so far


@dataclass(frozen=True)
class Vouched:
    """keys: of the objects that a verification vouches for; at_ns: when it ended, ns since 1970 UTC."""

    keys: frozenset[str]
    at_ns: int


NOTHING = Vouched(frozenset(), 0)


def verified_key(dataset: str) -> str:
    return f"verified/{check_dataset(dataset)}.json"


def keep_verified(store: Store, dataset: str, version: str) -> None:
    """Write down that every byte of a version was read now and is right.

    Args:
        store: the store in which it was read; nothing is written where it is read-only.
        dataset: the dataset of the version.
        version: id of the version.
    """
    if store.read_only:
        return
    digest = blake3_hex(stores.get(store, available_key(version)))
    value = {"version": version, "at_ns": time.time_ns(), "available": digest}
    stores.put(store, verified_key(dataset), json.dumps(value).encode())


def read_vouched(store: Store, dataset: str, trust_s: float) -> Vouched:
    """Find what the newest verification of a dataset vouches for in a store.

    Args:
        store: the store.
        dataset: name of the dataset.
        trust_s: how old a verification may be, in seconds.

    Returns:
        Keys of the root, parts, locations and packs of the verified version; none where the verification is older, or cannot
        be read, or the version is another by now.
    """
    try:
        key = verified_key(dataset)
        value = read_json(stores.get(store, key), key)
        version, at_ns = str(value["version"]), int(value["at_ns"])
        age_s = (time.time_ns() - at_ns) / 1e9
        if not is_hash(version) or not -MAX_AHEAD_S <= age_s <= trust_s:
            return NOTHING
        if blake3_hex(stores.get(store, available_key(version))) != value.get("available"):
            return NOTHING
        root, there = read_whole(store, version)
    except (NotFound, Corrupt, KeyError, TypeError, ValueError):
        return NOTHING
    keys = {manifests.root_key(version), *(manifests.part_key(part.id) for part in root.parts)}
    keys |= {manifests.location_key(item) for item in there.locations}
    keys |= {pack_key(use.id) for use in there.packs if use.id not in there.assembled}
    return Vouched(frozenset(keys), at_ns)
