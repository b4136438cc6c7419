"""no-recordings: a drive without any file that is named as a recording."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.recordings.formats import SUFFIXES
from transforms.rules.rule import DriveRule
from transforms.seen import Seen


def check(drive: Sequence[Seen]) -> Iterable[tuple[str, str]]:
    if any(seen.role == "recording" for seen in drive):
        return []
    return [("COMPLETE.json", f"none of its {len(drive)} files ends in {', '.join(sorted(SUFFIXES))}")]


RULE = DriveRule("no-recordings", "error", check)
