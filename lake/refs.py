"""Refs: the only mutable objects of the lake. `refs/<dataset>/<tag>.json` names a version; it moves by compare-and-swap.

Before a ref is overwritten or removed, what it was is kept as `history/<dataset>/<tag>/<when it was moved there, ns>.json`: so the
history is whole wherever a process is killed, and the ref itself is its last entry.

Numbered tags never move. Any other tag moves forward only, unless a person asks (rollback): `move_ref` takes what may be left behind,
and asks it of what the tag names at the moment of each try.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lake import keptfiles, stores
from lake.canonical import is_hash, read_json
from lake.config import home
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.names import check_dataset, check_tag, near_names
from lake.stores import Info, Store
from lake.unreadable import Unreadable, read_each, set_aside

LATEST = "latest"
NUMBERED = re.compile(r"v([1-9][0-9]{0,8})")
PREFIX = re.compile(r"[0-9a-f]{6,64}")
TRIES = 20


@dataclass(frozen=True)
class Ref:
    """origin: what made the version (query, catalogue snapshot, who): never part of the version id.

    at_ns: when the version was published; moved_ns: when the tag came to name it, in this store. Both in ns since 1970 UTC.
    follows: of a ref that a sync brought, the IDC and the moved_ns there of the ref that it mirrors.
    """

    dataset: str
    tag: str
    version: str
    at_ns: int
    origin: Mapping[str, Any] = field(default_factory=dict)
    moved_ns: int = 0
    follows: tuple[str, int] | None = None


def ref_key(dataset: str, tag: str) -> str:
    return f"refs/{check_dataset(dataset)}/{check_tag(tag)}.json"


def parse(text: str) -> tuple[str, str]:
    """`NAME@TAG` or `NAME` (latest) → (dataset, tag or version prefix). Raises Refused."""
    dataset, at, tag = text.partition("@")
    return check_dataset(dataset), (tag if at and tag else LATEST)


def _read(store: Store, key: str) -> tuple[Ref, str | None]:
    data, etag = stores.get_tagged(store, key)
    return _checked(data, key), etag


def _checked(data: bytes, key: str) -> Ref:
    found = from_json(data, key)
    if key != f"refs/{found.dataset}/{found.tag}.json":
        raise Corrupt(key, "it is another ref", _MEND)
    return found


def from_json(data: bytes, what: str) -> Ref:
    """A ref as it was written. Raises Corrupt, naming `what`."""
    try:
        value = read_json(data, what)
    except Corrupt as error:
        raise Corrupt(what, error.why, _MEND) from error
    try:
        at_ns = int(value["at_ns"])
        moved_ns = int(value.get("moved_ns") or at_ns)
        idc, there_ns = value.get("follows") or ("", 0)
        follows = (str(idc), int(there_ns)) if idc else None
        found = Ref(
            value["dataset"],
            value["tag"],
            value["version"],
            at_ns,
            value.get("origin", {}),
            moved_ns,
            follows,
        )
        if not isinstance(found.dataset, str) or not isinstance(found.tag, str):
            raise TypeError("dataset and tag are no text")
        if not isinstance(found.origin, dict):
            raise TypeError("the origin is no object")
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(what, f"it is no ref: {error!r}", _MEND) from error
    if not is_hash(str(found.version)):
        raise Corrupt(what, "it names no version", _MEND)
    return found


_MEND = "see `outlap history NAME@TAG`, and write it anew with `outlap rollback NAME@TAG --to VERSION`"


def to_json(ref: Ref) -> bytes:
    return json.dumps(asdict(ref), ensure_ascii=False, indent=1, sort_keys=True).encode()


def read_ref(store: Store, dataset: str, tag: str) -> Ref | None:
    """The ref of exactly that tag, or None."""
    try:
        return _read(store, ref_key(dataset, tag))[0]
    except NotFound:
        return None


def _order(ref: Ref) -> tuple[str, int, str]:
    number = NUMBERED.fullmatch(ref.tag)
    return (ref.dataset, int(number[1]), "") if number else (ref.dataset, 10**9, ref.tag)


def list_refs(store: Store, dataset: str, unreadable: list[Unreadable] | None = None) -> list[Ref]:
    """List all refs of a dataset, by one listing: v1, v2, … first, then by name.

    Args:
        store: the store to ask.
        dataset: name of the dataset.
        unreadable: takes the refs that cannot be read; None raises Corrupt for the first one.

    Returns:
        The refs that can be read.
    """
    return _refs_below(store, f"refs/{check_dataset(dataset)}/", unreadable)


def list_all_refs(store: Store, unreadable: list[Unreadable] | None = None) -> list[Ref]:
    """List all refs of a store, by one listing however many datasets it has.

    Args:
        store: the store to ask.
        unreadable: takes the refs that cannot be read; None raises Corrupt for the first one.

    Returns:
        The refs that can be read, by dataset and in each as `list_refs` has them.
    """
    return _refs_below(store, "refs/", unreadable)


def _refs_below(store: Store, prefix: str, unreadable: list[Unreadable] | None) -> list[Ref]:
    infos = {info.key: info for info in stores.list_objects(store, prefix) if info.key.endswith(".json")}
    return sorted(read_each(infos, lambda key: _listed(store, infos[key]), unreadable), key=_order)


def _listed(store: Store, info: Info) -> Ref:
    """The ref that a listing named. A year of nightly versions is many refs, and few of them change: copies are kept by their etag."""
    folder, name = home() / "cache" / "refs", f"{store.where} {store.name} {info.key} {info.etag} {info.size}"
    if info.etag is None or not home().is_dir():
        return _read(store, info.key)[0]
    data = keptfiles.read(folder, name)
    if data is None:
        data, etag = stores.get_tagged(store, info.key)
        if etag == info.etag:  # else it moved since the listing
            keptfiles.keep(folder, name, data)
    return _checked(data, info.key)


def list_datasets(store: Store) -> list[str]:
    """Names of all datasets of a store. By their refs: some stores list folders that have become empty."""
    keys = (info.key.split("/") for info in stores.list_objects(store, "refs/"))
    return sorted({parts[1] for parts in keys if len(parts) == 3})


def resolve(store: Store, dataset: str, ref: str = LATEST) -> Ref:
    """A tag, `latest` or a version id prefix (6 digits or more) → its ref.

    A version is shown under its numbered tag where it has one. Raises NotFound, naming what there is; Refused when a prefix
    fits two versions.
    """
    if not PREFIX.fullmatch(ref):
        found = read_ref(store, dataset, ref)
        if found is not None:
            return found
    unreadable: list[Unreadable] = []
    known = list_refs(store, dataset, unreadable)
    if not known and unreadable:
        raise Corrupt(unreadable[0].key, unreadable[0].why, _MEND)
    if not known:
        raise NotFound(
            f"the dataset {dataset!r}",
            f"store {store.name} of {store.idc} has: {near_names(dataset, list_datasets(store))}",
            "check the name, publish it (`outlap publish`), or sync it here (`outlap sync`)",
        )
    fitting = [found for found in known if PREFIX.fullmatch(ref) and found.version.startswith(ref)]
    if len({found.version for found in fitting}) > 1:
        raise Refused(f"the version {dataset}@{ref}", "more than one version begins so", "give more digits")
    if fitting:
        return fitting[0]
    tags = near_names(ref, [found.tag for found in known[-20:]])
    raise NotFound(f"{dataset}@{ref}", f"store {store.name} of {store.idc} has: {tags}", "name one of these")


def write_ref(store: Store, ref: Ref) -> bool:
    """Write a new ref; False when the tag exists."""
    moved = replace(ref, moved_ns=time.time_ns())
    return stores.put_if_absent(store, ref_key(ref.dataset, ref.tag), to_json(moved))


def move_ref(
    store: Store,
    ref: Ref,
    may_leave: Callable[[Ref], bool] | None = None,
    *,
    over_unreadable: bool = False,
) -> Ref | None:
    """Let a tag name another version, by compare-and-swap.

    Args:
        store: the store of the ref.
        ref: what the tag shall be.
        may_leave: whether the tag may leave what it names; asked again at each try. None: it may, for a person asks.
        over_unreadable: write also over a ref that cannot be read.

    Returns:
        None when the tag is as `ref` says; else the ref that stays.

    Raises:
        Conflict: after many lost races.
        Corrupt: the ref cannot be read.
    """
    key = ref_key(ref.dataset, ref.tag)
    for attempt in range(TRIES):
        known, etag = _known(store, key, over_unreadable)
        if known is not None and known.version == ref.version and known.origin == ref.origin:
            return None
        if known is not None and may_leave is not None and not may_leave(known):
            return known
        if known is not None:
            _keep(store, known)
        moved_ns = max(time.time_ns(), known.moved_ns + 1 if known is not None else 0)
        try:
            stores.compare_and_swap(store, key, to_json(replace(ref, moved_ns=moved_ns)), etag)
            return None
        except Conflict:
            time.sleep(0.01 * attempt)
    raise Conflict(f"move {ref.dataset}@{ref.tag}", f"others moved it {TRIES} times at once", "run it again")


def _known(store: Store, key: str, over_unreadable: bool) -> tuple[Ref | None, str | None]:
    try:
        data, etag = stores.get_tagged(store, key)
    except NotFound:
        return None, None
    try:
        return _checked(data, key), etag
    except Corrupt:
        if over_unreadable:
            return None, etag
        raise


def _keep(store: Store, ref: Ref) -> None:
    key = f"{history_prefix(ref.dataset, ref.tag)}{ref.moved_ns:019d}.json"
    stores.put_if_absent(store, key, to_json(ref))


def history_prefix(dataset: str, tag: str) -> str:
    return f"history/{check_dataset(dataset)}/{check_tag(tag)}/"


def remove_ref(store: Store, dataset: str, tag: str) -> Ref:
    """Take a tag away; what it was stays in the history. Raises NotFound."""
    found = read_ref(store, dataset, tag)
    if found is None:
        resolve(store, dataset, tag)  # raises NotFound, which names what there is
        raise NotFound(f"the tag {dataset}@{tag}", "this is a version id, not a tag", "name a tag")
    _keep(store, found)
    stores.delete(store, ref_key(dataset, tag))
    return found


def history(
    store: Store, dataset: str, tag: str = LATEST, unreadable: list[Unreadable] | None = None
) -> list[Ref]:
    """List every version that a tag has named in this store.

    Args:
        store: the store of the tag.
        dataset: name of the dataset.
        tag: the tag.
        unreadable: takes the entries that cannot be read; None raises Corrupt for the first one.

    Returns:
        The refs as they were, oldest first; moved_ns is when the tag came to name it.
    """
    prefix = history_prefix(dataset, tag)
    keys = [info.key for info in stores.list_objects(store, prefix)]
    entries = read_each(keys, lambda key: from_json(stores.get(store, key), key), unreadable)
    found = {ref.moved_ns: ref for ref in entries}
    try:
        now = read_ref(store, dataset, tag)
    except Corrupt as error:
        set_aside(ref_key(dataset, tag), error, unreadable)
        now = None
    if now is not None:
        found[now.moved_ns] = now
    if not found and not unreadable:
        resolve(store, dataset, tag)  # raises NotFound, which names what there is
    return [found[moved_ns] for moved_ns in sorted(found)]


def has_named(store: Store, ref: Ref, is_it: Callable[[Ref], bool]) -> bool:
    """Look for a state among those that a tag has or had, the newest first.

    Args:
        store: the store of the tag.
        ref: the tag as it is now.
        is_it: what is looked for.

    Returns:
        True when the tag is or was so; an entry of the history that cannot be read is none.
    """
    if is_it(ref):
        return True
    keys = sorted(info.key for info in stores.list_objects(store, history_prefix(ref.dataset, ref.tag)))
    for key in reversed(keys):
        with suppress(Corrupt, NotFound):
            if is_it(from_json(stores.get(store, key), key)):
                return True
    return False


def was_at(store: Store, dataset: str, tag: str, at_ns: int) -> Ref:
    """What a tag named at a moment (ns since 1970 UTC). Raises NotFound when it named nothing yet, Corrupt when it cannot be known."""
    unreadable: list[Unreadable] = []
    before = [ref for ref in history(store, dataset, tag, unreadable) if ref.moved_ns <= at_ns]
    for one in unreadable:  # the key says when the entry began; the ref itself has no moment in its key
        moment = one.key.rpartition("/")[2].removesuffix(".json")
        began_ns = int(moment) if moment.isdigit() else 0
        if began_ns <= at_ns and (not before or began_ns >= before[-1].moved_ns or not moment.isdigit()):
            raise Corrupt(one.key, one.why, f"see `outlap history {dataset}@{tag}`")
    if not before:
        raise NotFound(
            f"{dataset}@{tag} at that moment", "the tag is younger", f"see `outlap history {dataset}@{tag}`"
        )
    return before[-1]


@dataclass
class Numbers:
    """Numbered tags of a dataset, as one listing found them: so that a batch numbers many versions without listing again.

    by_version: tags of versions; highest: the highest number that was ever given.
    """

    by_version: dict[str, Ref]
    highest: int


def list_numbers(store: Store, dataset: str) -> Numbers:
    """The numbered tags of a dataset. A number whose ref was deleted, or cannot be read, is not given again."""
    unreadable: list[Unreadable] = []
    known = [ref for ref in list_refs(store, dataset, unreadable) if NUMBERED.fullmatch(ref.tag)]
    bad = [one.key.rpartition("/")[2].removesuffix(".json") for one in unreadable]
    # a number that was deleted is not given again: it would name two versions in people's notes
    gone = stores.list_folders(store, f"history/{dataset}/")
    taken = [tag for tag in (*bad, *gone, *(ref.tag for ref in known)) if NUMBERED.fullmatch(tag)]
    by_version = {ref.version: ref for ref in reversed(known)}
    return Numbers(by_version, max((int(tag[1:]) for tag in taken), default=0))


def tag_version(
    store: Store, dataset: str, version: str, origin: Mapping[str, Any], numbers: Numbers | None = None
) -> Ref:
    """Give a version its numbered tag. Two writers never get the same number.

    Args:
        store: the store of the dataset.
        dataset: name of the dataset.
        version: id of the version.
        origin: what made it.
        numbers: what is known of the numbers of the dataset, kept up to date; None lists them.

    Returns:
        The numbered tag that the version has, or its new one.
    """
    for _ in range(TRIES):
        known = numbers or list_numbers(store, dataset)
        if version in known.by_version:
            return known.by_version[version]
        known.highest += 1
        made = Ref(dataset, f"v{known.highest}", version, time.time_ns(), dict(origin))
        if write_ref(store, made):
            known.by_version[version] = made
            return made
    raise Conflict(f"tag a version of {dataset}", f"others took {TRIES} numbers at once", "run it again")
