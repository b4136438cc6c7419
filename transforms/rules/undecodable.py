"""undecodable: a frame that the recipe asks for gives no picture, or a damaged one."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.undecodable


RULE = FileRule("undecodable", "error", check)
