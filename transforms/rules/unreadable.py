"""unreadable: a recording cannot be opened or indexed at all."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.unreadable if seen.role == "recording" else None


RULE = FileRule("unreadable", "error", check)
