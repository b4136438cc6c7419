"""Files in which a node keeps its state, read so that no other release and no damage makes it forget what is held.

A reader ignores fields that it does not know: another release may have added them. A file that cannot be read all the same (it was
cut short, something else lies in its place, its format is a newer one) is never taken for an empty one, and never overwritten in
silence: it is set aside under another name, whoever reads it is told why, and health names it until a person has removed it.

    <file>.unreadable-<time in ns>
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import TypeAdapter, ValidationError

from lake.errors import Explained

FORMAT = 1  # a release that changes what a field means writes `{"format": 2, …}`
MARK = ".unreadable-"
_FIX = "look at that copy, then remove it; an older or newer release may still read it"

T = TypeVar("T")
log = structlog.get_logger()


class Unreadable(Explained):
    """A state file is there and says nothing."""


def set_aside(path: Path) -> Path:
    """Give what lies at a path another name, so that nothing overwrites it; the new path. Raises OSError."""
    aside = path.with_name(f"{path.name}{MARK}{time.time_ns()}")
    path.rename(aside)
    return aside


def copies_of(path: Path) -> list[Path]:
    """What was set aside of a state file and not been removed by a person since."""
    return sorted(path.parent.glob(f"{path.name}{MARK}*"))


def list_set_aside(folder: Path) -> list[Path]:
    """All that was set aside in a folder."""
    return sorted(folder.glob(f"*{MARK}*"))


def explain_copy(aside: Path) -> Unreadable:
    """What health says of a file that was set aside, also after a restart."""
    name, _, _ = aside.name.partition(MARK)
    return Unreadable(
        f"the state file {aside.with_name(name)}", f"it could not be read and is kept as {aside.name}", _FIX
    )


def load_json(path: Path, kind: TypeAdapter[T]) -> T | None:
    """Read a state file.

    Args:
        path: The file.
        kind: What it should hold; fields that it does not name are ignored.

    Returns:
        Its value; None when there is no such file.

    Raises:
        Unreadable: It is there and says nothing; it was set aside.
    """
    try:
        data = path.read_bytes()
        why = _newer(data)
        if why is None:
            return kind.validate_json(data, extra="ignore")
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        why = f"{place}: {first['msg']}" if place else first["msg"]
    except OSError as error:
        why = error.strerror or str(error)
    try:
        why += f"; it is kept as {set_aside(path).name}"
    except OSError as error:
        why += f"; it could not be set aside either: {error.strerror}"
    raise Unreadable(f"the state file {path}", why, _FIX)


def _newer(data: bytes) -> str | None:
    try:
        value: Any = json.loads(data)
    except ValueError:
        return None  # the error of its kind says more
    found = value.get("format") if isinstance(value, dict) else None
    if isinstance(found, int) and found > FORMAT:
        return f"a newer release wrote it (format {found}, this one reads {FORMAT})"
    return None
