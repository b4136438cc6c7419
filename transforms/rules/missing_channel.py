"""missing-channel: the drive has none of a channel that the profile of its vehicle requires."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.profiles import Profile
from transforms.rules.rule import ProfileRule
from transforms.seen import Seen


def check(drive: Sequence[Seen], profile: Profile) -> Iterable[tuple[str, str]]:
    there = {seen.channel for seen in drive if seen.stream is not None}
    for name in sorted(set(profile.channels) - there):
        yield "COMPLETE.json", f"{name} is required; there are {', '.join(sorted(there)) or 'none'}"


RULE = ProfileRule("missing-channel", "error", check)
