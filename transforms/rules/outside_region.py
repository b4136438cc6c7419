"""outside-region: the vehicle was outside the region in which its profile allows recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from transforms.profiles import Profile
from transforms.rules.rule import ProfileRule
from transforms.seen import Seen


def check(drive: Sequence[Seen], profile: Profile) -> Iterable[tuple[str, str]]:
    if profile.region is None:
        return
    south, west, north, east = profile.region
    for seen in drive:
        if seen.track is None:
            continue
        tall = (seen.track.latitude >= south) & (seen.track.latitude <= north)
        # a region may lie over the date line
        right, left = seen.track.longitude >= west, seen.track.longitude <= east
        inside = tall & ((right & left) if west <= east else (right | left))
        if not inside.all():
            first = int(np.flatnonzero(~inside)[0])
            where = f"{seen.track.latitude[first]:.5f}, {seen.track.longitude[first]:.5f}"
            yield (
                seen.file.path,
                f"{int((~inside).sum())} of {len(inside)} positions are outside, the first at {where}",
            )


RULE = ProfileRule("outside-region", "error", check)
