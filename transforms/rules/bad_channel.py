"""bad-channel: a recording's channel cannot be part of a path."""

from __future__ import annotations

from lake.errors import Refused
from lake.names import check_part
from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.role != "recording":
        return None
    try:
        check_part("the channel", seen.channel)
    except Refused as error:
        return f"{error.what}: {error.why}"
    return None


RULE = FileRule("bad-channel", "error", check)
