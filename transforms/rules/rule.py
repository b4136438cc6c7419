"""The shapes of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lake.quarantine import Severity
from transforms.profiles import Profile
from transforms.recordings import Kind
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
    inferred: bool = False


@dataclass(frozen=True)
class ProfileRule:
    """check: (file, evidence) against a drive of a vehicle of which a profile says what its drives must have."""

    id: str
    severity: Severity
    check: Callable[[Sequence[Seen], Profile], Iterable[tuple[str, str]]]
    inferred: bool = False


def met(kind: Kind) -> Callable[[Seen], str | None]:
    """A check for what was met while the recording was read (recordings.Problem)."""

    def check(seen: Seen) -> str | None:
        found = [problem.evidence for problem in seen.problems if problem.kind == kind]
        return "; ".join(found) or None

    return check
