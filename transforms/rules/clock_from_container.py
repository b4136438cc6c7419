"""clock-from-container: the only clock is the MP4's creation_time, which has whole seconds and may mean its end."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.recording is None or seen.start_from != "container":
        return None
    return f"its start is taken from creation_time {seen.recording.creation_time}"


RULE = FileRule("clock-from-container", "warning", check, inferred=True)
