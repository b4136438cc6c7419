"""What the lake needs of a store, tried out: conditional writes that are really honoured, and strong ETags that stay.

Refs, leases and numbers of versions are safe only where of many writers one wins. A store, or a proxy before it, that ignores
`If-None-Match` or `If-Match` lets all of them win and says nothing. So the first conditional write of a process asks the store, with
objects of its own below `probes/`, which it removes again. A store that passed is not asked again by this machine for a day
(`$OUTLAP_HOME/cache/stores`); one that did not pass is asked again each time. Directories need no trial.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import obstore
from obstore.store import LocalStore, ObjectStore

from lake.canonical import blake3_hex
from lake.config import home
from lake.errors import Conflict, LakeError, NotFound, Refused, StoreDown
from lake.store_errors import explained

PREFIX = "probes/"
VALID_S = 24 * 3600
RACERS = 4
NO_ETAG = "it gives no ETag, so a change would not be seen"
FIX = (
    "use a store that honours If-None-Match and If-Match on PUT (AWS S3, SeaweedFS, MinIO, Ceph, R2 do, in recent releases), "
    "or take away the proxy that drops them"
)
_passed: set[tuple[str, int]] = set()
_lock = Lock()


def require_conditional_writes(name: str, where: str, obs: ObjectStore) -> None:
    """Refuse a store that lacks what the lake needs. It is asked once a process, at most once a day a machine.

    Args:
        name: of the store, for the error.
        where: its address, without secrets.
        obs: the handle to ask through.

    Raises:
        Refused: it lacks something; named, with what to do.
        StoreDown: it does not answer.
    """
    mine = (where, os.getpid())
    if isinstance(obs, LocalStore) or mine in _passed:
        return
    with _lock:
        if mine in _passed:
            return
        if not _passed_lately(where):
            problems = probe(name, where, obs)
            if problems:
                raise Refused(f"write to the store {name} ({where})", "; ".join(problems), FIX)
            _remember(where)
        _passed.add(mine)


def probe(name: str, where: str, obs: ObjectStore) -> list[str]:
    """What a store lacks, one line each; empty when it has all that the lake needs.

    Args:
        name: of the store, for errors.
        where: its address, without secrets.
        obs: the handle to ask through; it is written to.

    Raises:
        StoreDown: it does not answer, or lets us not write.
    """
    key = f"{PREFIX}{secrets.token_hex(16)}"

    def put(data: bytes, mode: Any) -> dict[str, Any] | None:
        """What the store answered; None when it said that the condition does not hold."""
        try:
            with explained(name, where, key, "try out a conditional write of"):
                return dict(obstore.put(obs, key, data, mode=mode, use_multipart=False))
        except (Conflict, NotFound):
            return None

    try:
        return _problems(name, where, obs, key, put)
    finally:
        with suppress(LakeError), explained(name, where, key, "delete"):
            obstore.delete(obs, key)


def _problems(
    name: str,
    where: str,
    obs: ObjectStore,
    key: str,
    put: Callable[[bytes, Any], dict[str, Any] | None],
) -> list[str]:
    try:
        with explained(name, where, key, "write"):
            obstore.put(obs, key, b"plain", use_multipart=False)  # so that what comes is about conditions
            obstore.delete(obs, key)
    except StoreDown as error:
        if "ETag Header missing" in error.why:
            return [NO_ETAG]
        raise
    try:
        with ThreadPoolExecutor(RACERS) as pool:
            made = list(pool.map(lambda n: put(b"%d" % n, "create"), range(RACERS)))
    except LakeError as error:
        return [f"it refuses a PUT with If-None-Match ({error.why})"]
    won = sum(answer is not None for answer in made)
    if won > 1 or put(b"again", "create") is not None:
        return ["it ignores If-None-Match: of several writers of one key more than one wins"]
    if won == 0:
        return ["it lets nobody create an object with If-None-Match"]
    with explained(name, where, key, "read"):
        tags = [
            obstore.head(obs, key)["e_tag"],
            obstore.get(obs, key).meta["e_tag"],
            obstore.head(obs, key)["e_tag"],
        ]
    etag = tags[0]
    if etag is None:
        return [NO_ETAG]
    if any(tag != etag for tag in tags):
        return [f"the ETag of an object that nobody changed changes ({', '.join(map(str, tags))})"]
    if etag.startswith("W/"):
        return [f"its ETags are weak ({etag}): a change need not be seen"]
    try:
        moved = put(b"moved", {"e_tag": etag})
        if moved is None:
            return ["it refuses a PUT with If-Match although the ETag is right"]
        if put(b"moved again", {"e_tag": etag}) is not None:
            return ["it ignores If-Match: of two writers who read the same, both win"]
    except LakeError as error:
        return [f"it refuses a PUT with If-Match ({error.why})"]
    return []


def _record(where: str) -> Path:
    return home() / "cache" / "stores" / f"{blake3_hex(where.encode())[:32]}.passed"


def _passed_lately(where: str) -> bool:
    try:
        age_s = time.time() - _record(where).stat().st_mtime
    except OSError:
        return False
    return 0 <= age_s < VALID_S


def _remember(where: str) -> None:
    if not home().is_dir():
        return
    with suppress(OSError):  # then it is asked once more
        _record(where).parent.mkdir(parents=True, exist_ok=True)
        _record(where).touch()
