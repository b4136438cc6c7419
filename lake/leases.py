"""Leases: who is writing, so that garbage collection deletes nothing that a publish, sync or repack has just found to be there.

A writer puts `leases/<random>.json` and then looks for `leases/deleting.json`; the collector puts that one and then looks for the
others. Whoever comes second sees the first: a writer waits, a collector deletes nothing this time. A lease that nobody took back ends
by itself.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lake import stores
from lake.canonical import read_json
from lake.errors import Conflict, NotFound
from lake.stores import Store

PREFIX = "leases/"
DELETING = f"{PREFIX}deleting.json"
WRITE_S = 24 * 3600
DELETE_S = 3600
WAIT_S = 60.0


def _text(what: str, seconds: float) -> bytes:
    until_ns = time.time_ns() + int(seconds * 1e9)
    return json.dumps({"what": what, "until_ns": until_ns, "of": secrets.token_hex(8)}).encode()


def _until_ns(data: bytes) -> int:
    return int(read_json(data, "a lease").get("until_ns", 0))


def _running(store: Store, key: str) -> str | None:
    """What a lease is for; None when it is not there or has ended."""
    try:
        data = stores.get(store, key)
    except NotFound:
        return None
    return str(read_json(data, key).get("what")) if _until_ns(data) > time.time_ns() else None


@contextmanager
def writing(store: Store, what: str) -> Iterator[None]:
    """While this holds, nothing is deleted from the store. Raises Conflict when a collector goes on for a minute."""
    key = f"{PREFIX}{secrets.token_hex(16)}.json"
    stores.put(store, key, _text(what, WRITE_S))
    try:
        end = time.monotonic() + WAIT_S
        while _running(store, DELETING) is not None:
            if time.monotonic() > end:
                raise Conflict(
                    what, "garbage collection is deleting in this store", "run it again in a while"
                )
            time.sleep(0.5)
        yield
    finally:
        stores.delete(store, key)


def writers(store: Store) -> list[str]:
    """What is being written now."""
    keys = [info.key for info in stores.list_objects(store, PREFIX) if info.key != DELETING]
    return [what for key in keys if (what := _running(store, key)) is not None]


@contextmanager
def deleting(store: Store) -> Iterator[list[str]]:
    """What is being written now (then delete nothing). While this holds, no writer starts; stop after DELETE_S."""
    mine = _text("garbage collection", DELETE_S)
    try:
        known, etag = stores.get_tagged(store, DELETING)
    except NotFound:
        known, etag = b"", None
    if known and _until_ns(known) > time.time_ns():
        raise Conflict("garbage collection", "another one is deleting in this store", "wait for it")
    stores.compare_and_swap(store, DELETING, mine, etag)  # raises Conflict when another collector was first
    try:
        yield writers(store)
    finally:
        if _is(store, mine):
            stores.delete(store, DELETING)


def _is(store: Store, lease: bytes) -> bool:
    try:
        return stores.get(store, DELETING) == lease
    except NotFound:
        return False
