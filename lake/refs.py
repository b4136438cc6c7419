"""Refs: the only mutable objects of the lake. `refs/<dataset>/<tag>.json` names a version; it moves by compare-and-swap.

Before a ref is overwritten or removed, what it was is kept as `history/<dataset>/<tag>/<when it was moved there, ns>.json`: so the
history is whole wherever a process is killed, and the ref itself is its last entry.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lake import keptfiles, stores
from lake.canonical import is_hash, read_json
from lake.config import home
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.names import check_dataset, check_tag
from lake.stores import Info, Store

LATEST = "latest"
NUMBERED = re.compile(r"v([1-9][0-9]{0,8})")
PREFIX = re.compile(r"[0-9a-f]{6,64}")
TRIES = 20


@dataclass(frozen=True)
class Ref:
    """origin: what made the version (query, catalogue snapshot, who): never part of the version id.

    at_ns: when the version was published; moved_ns: when the tag came to name it, in this store. Both in ns since 1970 UTC.
    """

    dataset: str
    tag: str
    version: str
    at_ns: int
    origin: Mapping[str, Any] = field(default_factory=dict)
    moved_ns: int = 0


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
    if key != ref_key(found.dataset, found.tag):
        raise Corrupt(key, "it is another ref")
    return found


def from_json(data: bytes, what: str) -> Ref:
    """A ref as it was written. Raises Corrupt, naming `what`."""
    value = read_json(data, what)
    try:
        at_ns = int(value["at_ns"])
        moved_ns = int(value.get("moved_ns") or at_ns)
        found = Ref(
            value["dataset"], value["tag"], value["version"], at_ns, value.get("origin", {}), moved_ns
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(what, f"it is no ref: {error!r}") from error
    if not is_hash(str(found.version)):
        raise Corrupt(what, "it names no version")
    return found


def to_json(ref: Ref) -> bytes:
    return json.dumps(asdict(ref), ensure_ascii=False, indent=1, sort_keys=True).encode()


def read_ref(store: Store, dataset: str, tag: str) -> Ref | None:
    """The ref of exactly that tag, or None."""
    try:
        return _read(store, ref_key(dataset, tag))[0]
    except NotFound:
        return None


def list_refs(store: Store, dataset: str) -> list[Ref]:
    """All refs of a dataset: v1, v2, … first, then by name."""

    def order(ref: Ref) -> tuple[int, str]:
        number = NUMBERED.fullmatch(ref.tag)
        return (int(number[1]), "") if number else (10**9, ref.tag)

    found = stores.list_objects(store, f"refs/{check_dataset(dataset)}/")
    return sorted((_listed(store, info) for info in found if info.key.endswith(".json")), key=order)


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
    known = list_refs(store, dataset)
    if not known:
        names = ", ".join(list_datasets(store)[:20]) or "none"
        raise NotFound(
            f"the dataset {dataset!r}",
            f"store {store.name} of {store.idc} has: {names}",
            "check the name, publish it (`outlap publish`), or sync it here (`outlap sync`)",
        )
    fitting = [found for found in known if PREFIX.fullmatch(ref) and found.version.startswith(ref)]
    if len({found.version for found in fitting}) > 1:
        raise Refused(f"the version {dataset}@{ref}", "more than one version begins so", "give more digits")
    if fitting:
        return fitting[0]
    tags = ", ".join(found.tag for found in known[-20:])
    raise NotFound(f"{dataset}@{ref}", f"store {store.name} of {store.idc} has: {tags}", "name one of these")


def write_ref(store: Store, ref: Ref) -> bool:
    """Write a new ref; False when the tag exists."""
    moved = replace(ref, moved_ns=time.time_ns())
    return stores.put_if_absent(store, ref_key(ref.dataset, ref.tag), to_json(moved))


def move_ref(store: Store, ref: Ref) -> None:
    """Let a tag name another version, whatever it named. Raises Conflict after many lost races."""
    key = ref_key(ref.dataset, ref.tag)
    for attempt in range(TRIES):
        try:
            known, etag = _read(store, key)
        except NotFound:
            known, etag = None, None
        if known is not None and known.version == ref.version and known.origin == ref.origin:
            return
        if known is not None:
            _keep(store, known)
        moved_ns = max(time.time_ns(), known.moved_ns + 1 if known is not None else 0)
        try:
            stores.compare_and_swap(store, key, to_json(replace(ref, moved_ns=moved_ns)), etag)
            return
        except Conflict:
            time.sleep(0.01 * attempt)
    raise Conflict(f"move {ref.dataset}@{ref.tag}", f"others moved it {TRIES} times at once", "run it again")


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


def history(store: Store, dataset: str, tag: str = LATEST) -> list[Ref]:
    """Every version that a tag has named in this store, oldest first, with the moment it came to name it."""
    prefix = history_prefix(dataset, tag)
    keys = [info.key for info in stores.list_objects(store, prefix)]
    found = {ref.moved_ns: ref for ref in (from_json(stores.get(store, key), key) for key in keys)}
    now = read_ref(store, dataset, tag)
    if now is not None:
        found[now.moved_ns] = now
    if not found:
        resolve(store, dataset, tag)  # raises NotFound, which names what there is
    return [found[moved_ns] for moved_ns in sorted(found)]


def was_at(store: Store, dataset: str, tag: str, at_ns: int) -> Ref:
    """What a tag named at a moment (ns since 1970 UTC). Raises NotFound when it named nothing yet."""
    before = [ref for ref in history(store, dataset, tag) if ref.moved_ns <= at_ns]
    if not before:
        raise NotFound(
            f"{dataset}@{tag} at that moment", "the tag is younger", f"see `outlap history {dataset}@{tag}`"
        )
    return before[-1]


def tag_version(store: Store, dataset: str, version: str, origin: Mapping[str, Any]) -> Ref:
    """The numbered tag of a version: the one it has, or the next free one. Two writers never get the same number."""
    for _ in range(TRIES):
        known = [ref for ref in list_refs(store, dataset) if NUMBERED.fullmatch(ref.tag)]
        for ref in known:
            if ref.version == version:
                return ref
        # a number that was deleted is not given again: it would name two versions in people's notes
        gone = [tag for tag in stores.list_folders(store, f"history/{dataset}/") if NUMBERED.fullmatch(tag)]
        highest = max((int(tag[1:]) for tag in (*gone, *(ref.tag for ref in known))), default=0)
        made = Ref(dataset, f"v{highest + 1}", version, time.time_ns(), dict(origin))
        if write_ref(store, made):
            return made
    raise Conflict(f"tag a version of {dataset}", f"others took {TRIES} numbers at once", "run it again")
