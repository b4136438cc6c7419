"""missing-file: COMPLETE.json lists a file that is not in the landing."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return seen.fetch_problem if seen.missing else None


RULE = FileRule("missing-file", "error", check)
