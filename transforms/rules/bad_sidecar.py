"""bad-sidecar: the JSON file beside a recording cannot be read, or what it says does not fit."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.sidecar_problem


RULE = FileRule("bad-sidecar", "error", check)
