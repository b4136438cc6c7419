"""The two shapes of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lake.quarantine import Severity
from transforms.seen import Seen


@dataclass(frozen=True)
class FileRule:
    """check: evidence against a file (of numbers, for a person), None when there is none.

    An error refuses the drive. inferred: it is concluded from circumstances, not read from the file.
    """

    id: str
    severity: Severity
    check: Callable[[Seen], str | None]
    inferred: bool = False


@dataclass(frozen=True)
class DriveRule:
    """check: (file, evidence) against a drive as a whole."""

    id: str
    severity: Severity
    check: Callable[[Sequence[Seen]], Iterable[tuple[str, str]]]
