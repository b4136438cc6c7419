"""no-key-frame: nothing in a video can be decoded, because decoding can begin nowhere."""

from __future__ import annotations

from transforms.plan import decodable
from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    index = seen.index
    if index is None or (decodable(index) & index.shown).any():
        return None
    return f"of {len(index)} frames {int(index.key.sum())} are key frames, and no shown frame follows one"


RULE = FileRule("no-key-frame", "error", check)
