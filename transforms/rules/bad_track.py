"""bad-track: a GNSS.csv that is no table of fixes that rise in time and lie on Earth."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.unreadable if seen.role == "track" else None


RULE = FileRule("bad-track", "error", check)
