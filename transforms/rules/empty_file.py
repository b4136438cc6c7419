"""empty-file: a recording or a track of no bytes."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return "it has 0 bytes" if seen.role != "other" and seen.file.size == 0 else None


RULE = FileRule("empty-file", "error", check)
