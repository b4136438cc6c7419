"""The lake as pages read it: which versions there are, where each is available, how large it is, what it changed.

Refs and availability change, so they are listed again when they are older than a few seconds; what a version holds never does, so
each process reads it once. No request reads a manifest: two roots tell how many rows differ at most, and counting them happens
beside requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc

from lake import compare, holdings, manifests, refs
from lake.refs import LATEST, NUMBERED, Ref
from outlap_airflow.pages.asking import FOREVER, Answer
from outlap_airflow.pages.sources import FRESH_S, LIMIT_S, Sources, read_changed

# rows of parts that differ: counting more is begun only for who asks for it
MOST_ROWS_UNASKED = 1_000_000
COUNT_LIMIT_S = 0.5


@dataclass(frozen=True)
class Version:
    """A version of a dataset in one store. ref: its numbered tag, or the first it has; tags: the others; before: its predecessor."""

    ref: Ref
    number: int
    tags: tuple[str, ...]
    before: str | None

    @property
    def id(self) -> str:
        return self.ref.version


def _grouped(found: Iterable[Ref]) -> dict[str, list[Version]]:
    """dataset → its versions, newest first."""
    by_dataset: dict[str, dict[str, list[Ref]]] = {}
    for ref in found:
        by_dataset.setdefault(ref.dataset, {}).setdefault(ref.version, []).append(ref)
    return {dataset: _in_order(mine) for dataset, mine in sorted(by_dataset.items())}


def _number(ref: Ref) -> int:
    match = NUMBERED.fullmatch(ref.tag)
    return int(match[1]) if match else 0


def _in_order(mine: Mapping[str, list[Ref]]) -> list[Version]:
    chosen = []
    for found in mine.values():
        # the tag that stays with the version; `latest` last
        best = max(found, key=lambda ref: (_number(ref) > 0, ref.tag != LATEST, -_number(ref)))
        others = sorted(ref.tag for ref in found if ref.tag != best.tag)
        chosen.append((best, tuple(others)))
    chosen.sort(key=lambda pair: (_number(pair[0]), pair[0].at_ns))
    before: list[str | None] = [None, *(ref.version for ref, _ in chosen)]
    listed = [Version(ref, _number(ref), tags, was) for (ref, tags), was in zip(chosen, before, strict=False)]
    return listed[::-1]


def versions_at(src: Sources, idc: str) -> Answer:
    """dataset → list[Version], newest first, as the refs of an IDC's store say."""
    return _lists(src, "versions", [idc])[idc]


def available_at(src: Sources, idcs: Iterable[str]) -> dict[str, Answer]:
    """IDC → ids of the versions that are wholly in its store."""
    return _lists(src, "available", idcs)


def _lists(src: Sources, topic: str, idcs: Iterable[str]) -> dict[str, Answer]:
    def question(idc: str) -> Any:
        store = src.lake(idc)
        if topic == "available":
            return frozenset(holdings.versions_in(store))
        return _grouped(read_changed(src.memory, store, "refs/", refs.from_json).values())

    asked = {("the store of", idc, topic): partial(question, idc) for idc in idcs}
    answers = src.memory.asked.ask(asked, FRESH_S, LIMIT_S)
    return {key[1]: answer for key, answer in answers.items()}


def totals(src: Sources, idc: str, versions: Iterable[str]) -> dict[str, dict[str, int]]:
    """version → {files, bytes, parts} of those whose root was read by now; the others are being read."""

    def question(version: str) -> dict[str, int]:
        root = manifests.read_root(src.lake(idc), version)
        return {"files": root.files, "bytes": root.bytes, "parts": len(root.parts)}

    asked = {("the version", version): partial(question, version) for version in versions}
    answers = src.memory.asked.ask(asked, FOREVER, LIMIT_S)
    return {key[1]: found.value for key, found in answers.items() if found.value is not None}


def changes(
    src: Sources, idc: str, pairs: Iterable[tuple[str, str]], ask_all: bool = False
) -> dict[str, dict[str, Any]]:
    """(old, new) pairs → new: {state, added, removed, changed}, each {files, bytes}; bytes of changed: those of the new files.

    state: `known`; `counting`, so ask again; `large` (the parts that differ have `rows`: not counted unless `ask_all`); or `unknown`,
    with the problem.
    """
    pairs = list(pairs)
    most = FOREVER if ask_all else MOST_ROWS_UNASKED
    counted = src.memory.counted
    asked = {
        # a large one that somebody asked for is known to all
        ("the change", old, new, ask_all or counted.has(("the change", old, new, True))): partial(
            _count, src, idc, old, new, most
        )
        for old, new in pairs
    }
    answers = counted.ask(asked, FOREVER, COUNT_LIMIT_S)
    return {key[2]: _change(answer) for key, answer in answers.items()}


def _change(answer: Answer) -> dict[str, Any]:
    if answer.value is not None:
        return dict(answer.value)
    if answer.problem is not None and not answer.is_late:
        return {"state": "unknown", "problem": answer.problem}
    return {"state": "counting"}


def _count(src: Sources, idc: str, old: str, new: str, most: float) -> dict[str, Any]:
    store = src.lake(idc)
    before, after = manifests.read_root(store, old), manifests.read_root(store, new)
    shared = {part.id for part in before.parts} & {part.id for part in after.parts}
    rows = sum(part.rows for root in (before, after) for part in root.parts if part.id not in shared)
    if rows > most:
        return {"state": "large", "rows": rows}
    sums = {kind: {"files": 0, "bytes": 0} for kind in ("added", "removed", "changed")}
    for step in compare.differences(store, old, new):
        for kind, table in (("added", step.added), ("removed", step.removed), ("changed", step.changed)):
            sums[kind]["files"] += table.num_rows
            sums[kind]["bytes"] += pc.sum(table["size"]).as_py() or 0
    return {"state": "known", **sums}
