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
    return json.dumps({"what": what, "until_ns": time.time_ns() + int(seconds * 1e9)}).encode()


def _running(store: Store, key: str) -> str | None:
    """What a lease is for; None when it is not there or has ended."""
    try:
        value = read_json(stores.get(store, key), key)
    except NotFound:
        return None
    return str(value.get("what")) if int(value.get("until_ns", 0)) > time.time_ns() else None


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
    """What is being written now (then delete nothing). While this holds, no writer starts; DELETE_S at most."""
    if _running(store, DELETING) is not None:
        raise Conflict("garbage collection", "another one is deleting in this store", "wait for it")
    stores.delete(store, DELETING)  # one that has ended
    if not stores.put_if_absent(store, DELETING, _text("garbage collection", DELETE_S)):
        raise Conflict("garbage collection", "another one was first", "wait for it")
    try:
        yield writers(store)
    finally:
        stores.delete(store, DELETING)
