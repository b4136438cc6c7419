"""The tags of a version that has just been published: its number, the tag that was asked for, `latest`.

Publishes may race. What a tag named when a publish began may be left behind by it: that is what a publish is for, also when it gives
the content of an old version again. What came meanwhile is left only for a higher number, so of several publishes at once the one with
the highest number keeps the tag, whoever comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lake import refs
from lake.stores import Store

MayLeave = Callable[[refs.Ref], bool]


@dataclass(frozen=True)
class Pointed:
    """tag: the number of a version; stays: tags that name something newer than it, as `latest names v4 …`."""

    tag: str
    stays: tuple[str, ...]


def point_refs(
    store: Store,
    dataset: str,
    version: str,
    origin: Mapping[str, Any],
    tag: str | None = None,
    *,
    began: Mapping[str, refs.Ref | None],
    may_leave: MayLeave | None = None,
) -> Pointed:
    """Give a version its number, then its tag, then `latest`.

    A tag that another publish has moved meanwhile to a version of a higher number stays there.

    Args:
        store: the store.
        dataset: name of the dataset.
        version: id of the version.
        origin: what made it.
        tag: a further tag.
        began: what each tag named when the publish began.
        may_leave: a further condition on what `latest` names.

    Returns:
        The numbered tag, and the tags that stay.
    """
    numbered = refs.tag_version(store, dataset, version, origin)
    stays = []
    for name in (*([tag] if tag and tag != numbered.tag else []), refs.LATEST):

        def may(known: refs.Ref, name: str = name) -> bool:
            if name == refs.LATEST and may_leave is not None and not may_leave(known):
                return False
            first = began.get(name)
            if first is not None and (first.version, first.moved_ns) == (known.version, known.moved_ns):
                return True
            return _number_of(store, known) < _number_of(store, numbered)

        moved = refs.Ref(dataset, name, version, numbered.at_ns, numbered.origin)
        known = refs.move_ref(store, moved, may)
        if known is not None:
            stays.append(
                f"{name} names {known.version[:12]}, which was published meanwhile and is newer than {numbered.tag}"
            )
    return Pointed(numbered.tag, tuple(stays))


def _number_of(store: Store, ref: refs.Ref) -> int:
    """The number of the version that a ref names; 0 where it has none."""
    if not refs.NUMBERED.fullmatch(ref.tag):
        numbers = refs.list_numbers(store, ref.dataset)
        ref = numbers.by_version.get(ref.version, ref)
    return int(ref.tag[1:]) if refs.NUMBERED.fullmatch(ref.tag) else 0
