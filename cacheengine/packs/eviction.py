"""What may go, in which order, when room is needed: a pure function.

1. bytes fetched on demand beyond what is desired, oldest first; 2. packs of no desired version, oldest first; 3. whole desired
versions that are neither pinned nor leased, least recently mounted first, less what a kept version shares. Packs that a mounted
image points at are never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Key(NamedTuple):
    """A version on a node, whole or narrowed to a file list."""

    dataset: str
    version: str
    list_id: str | None


@dataclass(frozen=True)
class Holding:
    """A desired version: the packs it wants of, whether it is pinned, the stamp of its last mount (0: never)."""

    key: Key
    packs: frozenset[str]
    pinned: bool
    mounted_ns: int


@dataclass(frozen=True)
class Step:
    """`trim`: take from a pack what no desired version wants. `version`: stop desiring it, then trim its packs."""

    kind: Literal["trim", "version"]
    pack: str = ""
    key: Key | None = None


def order(
    packs: Mapping[str, int], holdings: Sequence[Holding], leased: Collection[str], asking: Key | None = None
) -> list[Step]:
    """Steps to be taken one after the other until there is room.

    packs: pack on disk → when its record last changed (ns). leased: packs that mounted images point at. asking: the version that
    needs the room, which is never a victim.
    """
    desired = frozenset[str]().union(*(holding.packs for holding in holdings))
    free = sorted((pack for pack in packs if pack not in leased), key=lambda pack: (packs[pack], pack))
    steps = [Step("trim", pack=pack) for pack in free if pack in desired]
    steps += [Step("trim", pack=pack) for pack in free if pack not in desired]
    victims = [
        holding
        for holding in holdings
        if not holding.pinned and holding.key != asking and not (holding.packs & set(leased))
    ]
    victims.sort(
        key=lambda holding: (
            holding.mounted_ns,
            holding.key.dataset,
            holding.key.version,
            holding.key.list_id or "",
        )
    )
    return steps + [Step("version", key=holding.key) for holding in victims]
