"""How long packs have lain as they are, by a clock that never jumps: a pure function.

Over a restart all there is is the time of a pack's record, by the clock on the wall: the first look believes it, but for one from the
future. From then on a change is no older than the look before it, whatever the wall says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ages:
    """looked: when (steady ns; None: never). known: pack → (time of its record in wall ns, when that changed in steady ns)."""

    looked: int | None = None
    known: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def look(ages: Ages, records: Mapping[str, int], steady: int, wall: int) -> Ages:
    """What is known after a look at all records of packs on disk (pack → wall ns of its last change). steady, wall: now."""
    earliest = -(1 << 62) if ages.looked is None else ages.looked
    known = {}
    for pack, changed in records.items():
        before = ages.known.get(pack)
        if before is not None and before[0] == changed:
            known[pack] = before
        else:
            known[pack] = (changed, max(earliest, steady - max(0, wall - changed)))
    return Ages(steady, known)
