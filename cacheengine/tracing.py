"""What fetchfs fetched while someone traces a read: a line of JSON a request, in a file beside its counts.

<state>/counts/trace.on      there while someone traces
<state>/counts/trace.log     one line each: source, pack, at, bytes, seconds
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ON, LOG = "trace.on", "trace.log"


class Fetched(NamedTuple):
    """bytes of a pack from byte `at` on came from `source` in so many seconds."""

    source: str
    pack: str
    at: int
    bytes: int
    seconds: float


def told(counts: Path) -> Callable[[str, str, int, int, float], None]:
    """What a process that fetches calls; while nobody traces it costs a look for a file."""

    def tell(source: str, pack: str, at: int, size: int, seconds: float) -> None:
        if (counts / ON).exists():
            with (counts / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps([source, pack, at, size, seconds]) + "\n")

    return tell


def begin(counts: Path) -> None:
    counts.mkdir(parents=True, exist_ok=True)
    (counts / LOG).unlink(missing_ok=True)
    (counts / ON).touch()


def end(counts: Path) -> list[Fetched]:
    """All that was fetched since `begin`."""
    (counts / ON).unlink(missing_ok=True)
    try:
        lines = (counts / LOG).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    (counts / LOG).unlink(missing_ok=True)
    return [Fetched(*json.loads(line)) for line in lines if line.endswith("]")]
