"""Batches: one item's failure is that item's outcome, whatever was raised, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lake.errors import Explained
from outlap import show

ALL_DONE, NONE_DONE, PARTLY = 0, 1, 3
MAX_CAUSE = 500

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why an item failed.

    Attributes:
        what: The thing that failed.
        why: The cause.
        fix: The next step.
    """

    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return str(Explained(self.what, self.why, self.fix))


def failure_of(
    error: Exception, name: str, fix: str = "run it again; if it fails again, report it"
) -> Failure:
    """What is told of an error.

    Args:
        error: Whatever was raised for the item.
        name: The item.
        fix: The next step, for an error that names none.

    Returns:
        The words of an error that explains itself; the type and text of any other.
    """
    if isinstance(error, Explained):
        return Failure(error.what, error.why, error.fix or fix)
    text = " ".join(str(error).split())[:MAX_CAUSE]
    return Failure(name, f"{type(error).__name__}: {text}" if text else type(error).__name__, fix)


def attempt(name: str, work: Callable[[], T]) -> T | Failure:
    """Do one item's work; its result, or the failure of whatever it raised. Only the end of the whole process passes through."""
    try:
        return work()
    except Exception as error:
        return failure_of(error, name)


def exit_code(are_good: Iterable[bool]) -> int:
    """0 where all items are done (or there were none), 1 where none is, 3 where some are."""
    known = list(are_good)
    return ALL_DONE if all(known) else PARTLY if any(known) else NONE_DONE


def report_failures(reports: Sequence[dict[str, Any]], name: str = "uri") -> None:
    """The table at the end of a batch: what failed, why, and the next step; nothing where all is well.

    Args:
        reports: Of all items; those that failed have `failure`.
        name: The key of the item's name.
    """
    failed = [report for report in reports if report.get("failure")]
    if failed:
        rows = [(report[name], report["failure"]["why"], report["failure"]["fix"]) for report in failed]
        show.table(("failed", "cause", "next"), rows, title=f"{len(failed)} of {len(reports)} failed")
