"""overlap: two recordings of one channel at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from transforms.rules.rule import DriveRule
from transforms.seen import Seen, shown_times


def check(drive: Sequence[Seen]) -> Iterable[tuple[str, str]]:
    spans = []
    for seen in drive:
        times = shown_times(seen)
        if len(times):
            spans.append((seen.channel, int(times[0]), int(times[-1]), seen.file.path))
    spans.sort()
    for before, after in pairwise(spans):
        if before[0] == after[0] and after[1] <= before[2]:
            yield (
                after[3],
                f"it begins at {after[1]} ns, before {before[3]} of the same channel {after[0]} ends at {before[2]} ns",
            )


RULE = DriveRule("overlap", "error", check)
