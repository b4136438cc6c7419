"""The record of what was started, and the events since: how `status` and `down` know without guessing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outlap.stack.layout import Layout
from outlap.stack.programs import Kind, Program

EVENTS_SHOWN = 10


@dataclass(frozen=True)
class Started:
    """One program of the record."""

    name: str
    kind: Kind
    address: str
    health: str
    log: Path


@dataclass(frozen=True)
class Event:
    """A crash, or a restart of something that hung."""

    at_ns: int
    program: str
    what: str


def write_record(layout: Layout, programs: Sequence[Program]) -> None:
    rows = [
        {"name": p.name, "kind": p.kind, "address": p.address, "health": p.health, "log": str(p.log)}
        for p in programs
    ]
    layout.record.write_text(json.dumps({"started_ns": time.time_ns(), "programs": rows}, indent=1))


def read_record(layout: Layout) -> list[Started]:
    """Nothing when no stack was started."""
    try:
        rows = json.loads(layout.record.read_text(encoding="utf-8"))["programs"]
        return [Started(r["name"], r["kind"], r["address"], r["health"], Path(r["log"])) for r in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def add_event(layout: Layout, program: str, what: str) -> None:
    event = Event(time.time_ns(), program, what)
    with layout.events.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(event)) + "\n")


def read_events(layout: Layout) -> list[Event]:
    """All of this run, oldest first; a torn last line is left out."""
    try:
        lines = layout.events.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row: Any = json.loads(line)
            found.append(Event(int(row["at_ns"]), str(row["program"]), str(row["what"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def last_lines(path: Path, count: int = 12) -> list[str]:
    """The end of a log, for an error that shows the cause."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
