"""no-positions: the drive has no positions, which the profile of its vehicle requires."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.profiles import Profile
from transforms.rules.rule import ProfileRule
from transforms.seen import Seen


def check(drive: Sequence[Seen], profile: Profile) -> Iterable[tuple[str, str]]:
    if profile.positions and not any(seen.track is not None for seen in drive):
        yield "COMPLETE.json", "none of its files has positions"


RULE = ProfileRule("no-positions", "error", check)
