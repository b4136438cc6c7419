"""bad-track: a CSV, GPX or JSON of positions that is none: no fixes, times that do not rise, places that are not on Earth."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.unreadable if seen.role == "track" else None


RULE = FileRule("bad-track", "error", check)
