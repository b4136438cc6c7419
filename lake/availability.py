"""The last writes of a publish, sync or repack: a version appears only under a lease that held all the while.

What was found to be there while a lease was held stays there as long as nobody broke the lease. So `available` is written, and then the
store is asked for the lease: was it not broken, every deletion that begins later sees `available` and spares what it speaks of. Was
it broken, it is taken again, and every object that the version needs is asked for anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lake import manifests, stores
from lake.assemblies import assembly_key
from lake.errors import Conflict, NotFound
from lake.leases import Writing
from lake.packs import pack_key
from lake.stores import Store
from lake.versions import Available, available_key, write_available

PARALLEL = 16
TRIES = 5


class Vanished(Conflict):
    """Objects that were there when they were asked for were deleted while the lease was lost."""


def missing_objects(store: Store, available: Available) -> list[str]:
    """Keys of what a version needs and the store has not, or not of that size; each is asked for now.

    Args:
        store: the store to ask.
        available: what the version needs there.
    """
    sizes: dict[str, int | None] = {manifests.root_key(available.version): None}
    sizes |= {manifests.location_key(item): None for item in available.locations}
    assembled = set(available.assembled)
    sizes |= {assembly_key(use.id): None for use in available.packs if use.id in assembled}
    sizes |= {pack_key(use.id): use.size for use in available.packs if use.id not in assembled}
    try:
        root = manifests.read_root(store, available.version)
        sizes |= {manifests.part_key(part.id): None for part in root.parts}
    except NotFound:
        pass  # its key is asked for below

    def is_missing(key: str) -> bool:
        info = stores.head(store, key)
        return info is None or sizes[key] not in (None, info.size)

    with ThreadPoolExecutor(PARALLEL) as pool:
        absent = list(pool.map(is_missing, sizes))
    return sorted(key for key, gone in zip(sizes, absent, strict=True) if gone)


def let_appear(store: Store, lease: Writing, made: Available, before: Available | None = None) -> None:
    """Write `available`; when this returns, all that it names is there and is spared by every deletion that begins later.

    Args:
        store: where the version appears.
        lease: under which all of it was written or found to be there.
        made: what to write.
        before: what was available so far, and comes back when `made` is not whole.

    Raises:
        Vanished: the lease was lost and objects are gone; `made` is not said to be available.
        StoreDown
    """
    for _ in range(TRIES):
        if lease.was_broken():
            lease.take_again()
            _refuse_missing(store, lease, made, before)
        write_available(store, made)
        if not lease.was_broken():
            return
    raise Conflict(
        lease.what, f"its lease was lost {TRIES} times at once", "see that its process is not stopped"
    )


def confirm(store: Store, lease: Writing, made: Available) -> bool:
    """After the refs moved: False when the lease was lost meanwhile and everything was asked for again.

    Args:
        store: where the version appeared.
        lease: under which it appeared.
        made: what was written.

    Raises:
        Vanished: objects are gone; the version is not available any more.
        StoreDown
    """
    if not lease.was_broken():
        return True
    let_appear(store, lease, made)
    return False


def _refuse_missing(store: Store, lease: Writing, made: Available, before: Available | None) -> None:
    gone = missing_objects(store, made)
    if not gone:
        return
    if before is not None and not missing_objects(store, before):
        write_available(store, before)
    else:
        stores.delete(store, available_key(made.version))
    why = (
        f"its lease in store {store.name} was lost (the process was stopped, or did not reach the store), and meanwhile "
        f"{len(gone)} objects that it had found there were deleted: {', '.join(gone[:3])}{', …' if len(gone) > 3 else ''}"
    )
    raise Vanished(lease.what, why, "run it again: it writes what is missing")
