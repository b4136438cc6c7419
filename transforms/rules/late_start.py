"""late-start: a channel begins more than a second after the first one of its drive, or ends as much before the last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transforms.rules.rule import DriveRule
from transforms.seen import Seen, shown_times
from transforms.times import SECOND

LIMIT_NS = SECOND


def check(drive: Sequence[Seen]) -> Iterable[tuple[str, str]]:
    spans: dict[str, tuple[int, int, str]] = {}
    for seen in drive:
        times = shown_times(seen)
        if len(times) > 1:
            first, last, file = spans.get(seen.channel, (int(times[0]), int(times[-1]), seen.file.path))
            spans[seen.channel] = (min(first, int(times[0])), max(last, int(times[-1])), file)
    if len(spans) < 2:
        return
    begin, end = min(span[0] for span in spans.values()), max(span[1] for span in spans.values())
    for channel, (first, last, file) in sorted(spans.items()):
        if first - begin > LIMIT_NS:
            yield file, f"{channel} begins {first - begin} ns after the first channel"
        if end - last > LIMIT_NS:
            yield file, f"{channel} ends {end - last} ns before the last channel"


RULE = DriveRule("late-start", "warning", check)
