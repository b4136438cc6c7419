"""Refs: the only mutable objects of the lake. `refs/<dataset>/<tag>.json` names a version; it moves by compare-and-swap."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lake import stores
from lake.canonical import is_hash, read_json
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.names import check_dataset, check_tag
from lake.stores import Store

LATEST = "latest"
NUMBERED = re.compile(r"v([1-9][0-9]{0,8})")
PREFIX = re.compile(r"[0-9a-f]{6,64}")
TRIES = 20


@dataclass(frozen=True)
class Ref:
    """origin: what made the version (query, catalogue snapshot, who): never part of the version id."""

    dataset: str
    tag: str
    version: str
    at_ns: int
    origin: Mapping[str, Any] = field(default_factory=dict)


def ref_key(dataset: str, tag: str) -> str:
    return f"refs/{check_dataset(dataset)}/{check_tag(tag)}.json"


def parse(text: str) -> tuple[str, str]:
    """`NAME@TAG` or `NAME` (latest) → (dataset, tag or version prefix). Raises Refused."""
    dataset, at, tag = text.partition("@")
    return check_dataset(dataset), (tag if at and tag else LATEST)


def _read(store: Store, key: str) -> tuple[Ref, str | None]:
    data, etag = stores.get_tagged(store, key)
    value = read_json(data, key)
    try:
        found = Ref(value["dataset"], value["tag"], value["version"], value["at_ns"], value.get("origin", {}))
    except KeyError as error:
        raise Corrupt(key, f"it is no ref: {error} is missing") from error
    if not is_hash(str(found.version)) or key != ref_key(found.dataset, found.tag):
        raise Corrupt(key, "it names no version, or another ref")
    return found, etag


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

    keys = [info.key for info in stores.list_objects(store, f"refs/{check_dataset(dataset)}/")]
    return sorted((_read(store, key)[0] for key in keys if key.endswith(".json")), key=order)


def list_datasets(store: Store) -> list[str]:
    """Names of all datasets of a store."""
    return stores.list_folders(store, "refs/")


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
    data = json.dumps(asdict(ref), ensure_ascii=False, indent=1, sort_keys=True).encode()
    return stores.put_if_absent(store, ref_key(ref.dataset, ref.tag), data)


def move_ref(store: Store, ref: Ref) -> None:
    """Let a tag name another version, whatever it named. Raises Conflict after many lost races."""
    key = ref_key(ref.dataset, ref.tag)
    data = json.dumps(asdict(ref), ensure_ascii=False, indent=1, sort_keys=True).encode()
    for attempt in range(TRIES):
        try:
            known, etag = _read(store, key)
        except NotFound:
            known, etag = None, None
        if known is not None and known.version == ref.version and known.origin == ref.origin:
            return
        try:
            stores.compare_and_swap(store, key, data, etag)
            return
        except Conflict:
            time.sleep(0.01 * attempt)
    raise Conflict(f"move {ref.dataset}@{ref.tag}", f"others moved it {TRIES} times at once", "run it again")


def tag_version(store: Store, dataset: str, version: str, origin: Mapping[str, Any]) -> Ref:
    """The numbered tag of a version: the one it has, or the next free one. Two writers never get the same number."""
    for _ in range(TRIES):
        known = [ref for ref in list_refs(store, dataset) if NUMBERED.fullmatch(ref.tag)]
        for ref in known:
            if ref.version == version:
                return ref
        highest = max((int(ref.tag[1:]) for ref in known), default=0)
        made = Ref(dataset, f"v{highest + 1}", version, time.time_ns(), dict(origin))
        if write_ref(store, made):
            return made
    raise Conflict(f"tag a version of {dataset}", f"others took {TRIES} numbers at once", "run it again")
