"""checksum: a file has another size or SHA-256 than COMPLETE.json says."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return None if seen.missing else seen.fetch_problem


RULE = FileRule("checksum", "error", check)
