"""Trash: tags that were deleted, for a time of grace. What a tag in the trash names is kept as if the tag were there.

    trash/refs/<dataset>/<tag>/<when it was deleted, ns>.json       the ref as it was
    retention/<dataset>.json                                        which numbered tags may go there by themselves

A tag leaves by `undelete`, or by garbage collection after the grace; only then can bytes become garbage (lake/garbage.py).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from lake import leases, refs, stores
from lake.canonical import read_json
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.names import check_dataset, check_tag
from lake.refs import Ref
from lake.stores import Store
from lake.unreadable import Unreadable, read_each, set_aside

PREFIX = "trash/refs/"
RULES = "retention/"
GRACE_DAYS = 14.0
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Trashed:
    """A tag in the trash. deleted_ns: since 1970 UTC."""

    key: str
    deleted_ns: int
    ref: Ref


@dataclass(frozen=True)
class Retention:
    """Numbered tags that are neither among the `last` newest nor younger than `days` go to the trash.

    Other tags stay, and so do numbered tags of a version that another tag names.
    """

    last: int
    days: float


def delete_tag(store: Store, dataset: str, tag: str) -> Trashed:
    """Put a tag into the trash: the entry first, so that its version is needed at every moment. Raises NotFound."""
    found = refs.read_ref(store, dataset, tag)
    if found is None:
        refs.remove_ref(store, dataset, tag)  # raises NotFound, which names what there is
        raise NotFound(f"the tag {dataset}@{tag}", "it came and went", "run it again")
    now = time.time_ns()
    key = f"{PREFIX}{check_dataset(dataset)}/{check_tag(tag)}/{now:019d}.json"
    stores.put(store, key, refs.to_json(found))
    refs.remove_ref(store, dataset, tag)
    return Trashed(key, now, found)


def trashed(
    store: Store, dataset: str | None = None, unreadable: list[Unreadable] | None = None
) -> list[Trashed]:
    """List what is in the trash, by one listing.

    Args:
        store: the store to ask.
        dataset: only of this dataset; None: of all.
        unreadable: takes the entries that cannot be read; None raises Corrupt for the first one.

    Returns:
        The entries that can be read, oldest first.
    """
    prefix = PREFIX if dataset is None else f"{PREFIX}{check_dataset(dataset)}/"

    def read(key: str) -> Trashed:
        moment = key.rpartition("/")[2].removesuffix(".json")
        if not moment.isdigit():
            raise Corrupt(key, "it is no entry of the trash", "delete it")
        return Trashed(key, int(moment), refs.from_json(stores.get(store, key), key))

    keys = [info.key for info in stores.list_objects(store, prefix)]
    return sorted(read_each(keys, read, unreadable), key=lambda item: item.deleted_ns)


def undelete(store: Store, dataset: str, tag: str) -> Ref:
    """Bring a tag back as it was deleted last. Raises NotFound (it is not in the trash), Conflict (it names another version now)."""
    unreadable: list[Unreadable] = []
    there = trashed(store, dataset, unreadable)
    mine = [item for item in there if item.ref.tag == tag]
    if not mine:
        others = ", ".join(dict.fromkeys(item.ref.tag for item in there)) or "nothing"
        others += "".join(f"; {one}" for one in unreadable)
        raise NotFound(
            f"{dataset}@{tag} in the trash",
            f"of {dataset} there is: {others}",
            "see `outlap undelete`",
        )
    with leases.writing(store, f"the undeletion of {dataset}@{tag}") as lease:
        return _undelete(store, lease, mine[-1])


def _undelete(store: Store, lease: leases.Writing, item: Trashed) -> Ref:
    """The tag first and the entry last: its version is needed at every moment."""
    ref, (dataset, tag) = item.ref, (item.ref.dataset, item.ref.tag)
    if not stores.exists(store, item.key):
        raise NotFound(
            f"{dataset}@{tag} in the trash", "its grace ended just now", "publish or sync it again"
        )
    if not refs.write_ref(store, ref):
        known = refs.read_ref(store, dataset, tag)
        if known is not None and known.version != ref.version:
            raise Conflict(
                f"undelete {dataset}@{tag}",
                f"the tag names {known.version[:12]} now, the trash {ref.version[:12]}",
                f"move it with `outlap rollback {dataset}@{tag} --to {ref.version[:12]}`",
            )
    if lease.was_broken():
        why = "its lease was lost (the process was stopped, or did not reach the store)"
        raise Conflict(
            f"undelete {dataset}@{tag}", why, f"`outlap verify {dataset}@{tag}`, then run it again"
        )
    stores.delete(store, item.key)
    return ref


def retention_key(dataset: str) -> str:
    return f"{RULES}{check_dataset(dataset)}.json"


def set_retention(store: Store, dataset: str, rule: Retention | None) -> None:
    """None: keep all. Raises Refused for a rule that keeps nothing."""
    if rule is None:
        stores.delete(store, retention_key(dataset))
        return
    if rule.last < 1 or rule.days < 0:
        raise Refused(f"the retention of {dataset}", "it keeps one version at least, and no negative days")
    stores.put(store, retention_key(dataset), json.dumps(asdict(rule)).encode())


def read_retention(store: Store, dataset: str) -> Retention | None:
    try:
        value = read_json(stores.get(store, retention_key(dataset)), retention_key(dataset))
        return Retention(int(value["last"]), float(value["days"]))
    except NotFound:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(retention_key(dataset), f"it is no rule: {error!r}", "set it again") from error


def past_retention(
    store: Store, now_ns: int, every: list[Ref] | None = None, unreadable: list[Unreadable] | None = None
) -> list[Ref]:
    """Find the numbered tags that the rules of their datasets no longer keep, by one listing of the rules.

    Args:
        store: the store to ask.
        now_ns: the time, ns since 1970 UTC.
        every: all refs of the store; None lists them.
        unreadable: takes rules that cannot be read; a dataset with such a rule or such a ref keeps all its tags. None
            raises Corrupt for the first one.

    Returns:
        The refs, by dataset and number.
    """
    bad: list[Unreadable] = []
    every = refs.list_all_refs(store, bad) if every is None else every
    by_dataset: dict[str, list[Ref]] = {}
    for ref in every:
        by_dataset.setdefault(ref.dataset, []).append(ref)
    found: list[Ref] = []
    ruled = {info.key for info in stores.list_objects(store, RULES)}
    held = {one.key.split("/")[1] for one in (*bad, *(unreadable or ())) if one.key.startswith("refs/")}
    for one in bad:
        set_aside(one.key, Corrupt(one.key, one.why), unreadable)
    for dataset, known in by_dataset.items():
        if retention_key(dataset) not in ruled or dataset in held:
            continue
        try:
            rule = read_retention(store, dataset)
        except Corrupt as error:
            set_aside(retention_key(dataset), error, unreadable)
            continue
        if rule is None:
            continue
        numbered = [ref for ref in known if refs.NUMBERED.fullmatch(ref.tag)]
        named = {ref.version for ref in known if not refs.NUMBERED.fullmatch(ref.tag)}
        found += [
            ref
            for ref in numbered[: -rule.last]
            if ref.at_ns < now_ns - rule.days * DAY_NS and ref.version not in named
        ]
    return found
