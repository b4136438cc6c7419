"""cut-off: a recording was cut off, and the profile of its vehicle does not say that what is whole of one may be taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.profiles import Profile
from transforms.rules.rule import ProfileRule, met
from transforms.seen import Seen

_evidence = met("partial")


def check(drive: Sequence[Seen], profile: Profile) -> Iterable[tuple[str, str]]:
    if profile.partial:
        return
    for seen in drive:
        evidence = _evidence(seen)
        if evidence is not None:
            yield seen.file.path, f"{evidence}; `partial` in the vehicle's profile would take what is whole"


RULE = ProfileRule("cut-off", "error", check)
