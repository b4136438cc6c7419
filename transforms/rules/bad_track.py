"""bad-track: a CSV, GPX or JSON of positions or signals that is none: no values, times that do not rise, places not on Earth."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.unreadable if seen.role in ("track", "signals") else None


RULE = FileRule("bad-track", "error", check)
