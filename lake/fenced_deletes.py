"""Deletes that cannot come late: each takes effect only while the lease of whoever deletes surely holds.

S3 has no transaction over a lease and an object. So a delete is a URL that is signed while the lease was just renewed and that the
store itself refuses after a fraction of a lease: a process that is stopped anywhere, or a request that is under way for long, deletes
nothing once another may have broken the lease. The time of expiry is by the store's clock; what ours differs from it was measured
when the lease was taken. Where a URL cannot be signed (a store without keys) or our clock is too far ahead, the lease is renewed just
before an ordinary delete. In a directory, lease, object and delete are one step under the lock of the directory.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import obstore
from obstore.store import S3Store

from lake import stores
from lake.errors import Conflict, NotFound, StoreDown
from lake.store_errors import refusal, store_down
from lake.stores import Info, Store

TRIES = 4
TIMEOUT_S = 10.0
MAX_EXPIRY_S = 7 * 24 * 3600  # S3 signs for no longer


class LeaseLost(Conflict):
    """Another process held our lease for ended and broke it."""


@dataclass(frozen=True)
class Fence:
    """What a delete asks of its lease.

    is_mine: whether the store still has it. sure_s: seconds in which a delete may be sent (raises LeaseLost). ahead_s: what our
    clock is before the store's, at most. valid_s: how long the store is to take a delete that was sent.
    """

    is_mine: Callable[[], bool]
    sure_s: Callable[[], float]
    ahead_s: Callable[[], float]
    valid_s: float


def delete_fenced(store: Store, key: str, judged: Info | None, fence: Fence) -> bool:
    """Delete an object, if it is the one that was judged, within the time of a lease.

    Args:
        store: where it lies.
        key: of the object.
        judged: size, etag and age of the object that may go; None: whatever is there.
        fence: the lease.

    Returns:
        False when it is gone, or is another object by now.

    Raises:
        LeaseLost: nothing more may be deleted.
        StoreDown: the store does not answer.
    """
    with stores.folder_lock(store, key) as path:
        if path is not None:
            if not fence.is_mine():
                raise LeaseLost(f"delete {key} in store {store.name}", "the lease was broken", "run it again")
            if not _is_judged(store, key, judged):
                return False
            path.unlink(missing_ok=True)
            return True
    for attempt in range(TRIES):
        if not _is_judged(store, key, judged):
            return False
        done = _send(store, key, fence, attempt == TRIES - 1)
        if done is not None:
            return done
        time.sleep(0.2 * 2**attempt)
    raise StoreDown(f"delete {key} in store {store.name}", "it did not answer in time", "run it again")


def _is_judged(store: Store, key: str, judged: Info | None) -> bool:
    now = stores.head(store, key)
    if now is None or judged is None:
        return now is not None
    # a listing gives fractions of a second, an answer to HEAD does not
    same_age = now.modified_ns // 10**9 == judged.modified_ns // 10**9
    return now.etag == judged.etag and now.size == judged.size and same_age


def _sign(store: Store, key: str, fence: Fence) -> str | None:
    """A URL that the store refuses after valid_s; None where there can be none."""
    seconds = int(fence.valid_s - fence.ahead_s())
    if not isinstance(store.obs, S3Store) or seconds < 1:
        return None
    if str(store.obs.config.get("skip_signature", "")).lower() == "true":
        return None
    return str(obstore.sign(store.obs, "DELETE", key, timedelta(seconds=min(seconds, MAX_EXPIRY_S))))


def _send(store: Store, key: str, fence: Fence, is_last: bool) -> bool | None:
    """Whether it was deleted; None when it should be tried again."""
    fence.sure_s()
    url = _sign(store, key, fence)
    fence.sure_s()  # also after the signing: whoever was stopped before it signed too late
    if url is None:
        stores.delete(store, key)
        return True
    what = f"delete {key} in store {store.name} ({store.where})"
    request = urllib.request.Request(url, method="DELETE")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        code, message = refusal(text)
        if error.code == 404 and code != "NoSuchBucket":
            return False
        was_late = error.code == 403 and "expired" in message.lower()
        if (error.code >= 500 or error.code == 429 or was_late) and not is_last:
            return None
        raise store_down(
            what, text or f"status code: {error.code}", name=store.name, verb="delete"
        ) from error
    except (OSError, NotFound) as error:
        if not is_last:
            return None
        raise StoreDown(what, str(error), "run it again") from error
