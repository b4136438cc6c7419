"""other-than-profile: a channel has another size or fewer frames a second than the profile of its vehicle says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.profiles import Profile
from transforms.rules.rule import ProfileRule
from transforms.seen import Seen, seconds_of, shown_times


def check(drive: Sequence[Seen], profile: Profile) -> Iterable[tuple[str, str]]:
    for seen in drive:
        wanted, stream = profile.channels.get(seen.channel), seen.stream
        if wanted is None or stream is None:
            continue
        sizes = ((wanted.width, stream.width), (wanted.height, stream.height))
        if any(told is not None and told != found for told, found in sizes):
            yield (
                seen.file.path,
                f"{stream.width}x{stream.height}, it should be {wanted.width}x{wanted.height}",
            )
        seconds = seconds_of(seen)
        rate = len(shown_times(seen)) / seconds if seconds else 0.0
        if wanted.min_hz is not None and seconds and rate < wanted.min_hz:
            yield seen.file.path, f"{rate:.3f} frames a second, it should have {wanted.min_hz} or more"


RULE = ProfileRule("other-than-profile", "error", check)
