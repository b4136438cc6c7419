"""hidden-frames: the edit list of an MP4 hides frames; a trimmed recording means it so, a damaged list loses them."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    # other formats have no edit lists; what they do not show has a rule of its own
    if seen.index is None or seen.format != "mp4":
        return None
    hidden = int(np.count_nonzero(~seen.index.shown))
    return f"{hidden} of {len(seen.index)} frames are hidden and not cut" if hidden else None


RULE = FileRule("hidden-frames", "warning", check, inferred=True)
