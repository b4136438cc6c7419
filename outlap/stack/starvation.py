"""How much longer a program takes because the machine lets it wait for a processor.

Limits of patience are meant for a machine that is free. On a busy one a healthy program is late, and restarting it makes the machine
busier, so patience grows by the factor that the kernel itself tells: the time that the program's threads ran and waited to run
(/proc/<pid>/task/*/schedstat, https://docs.kernel.org/scheduler/sched-stats.html).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_FACTOR = 20.0


@dataclass(frozen=True)
class Turns:
    """Time in ns that threads have run, and that they were ready to run and had to wait."""

    run_ns: int = 0
    wait_ns: int = 0


NO_TURNS = Turns()


def read_turns(pids: Iterable[int]) -> Turns:
    """Add up what the threads of these processes had so far; what has ended counts nothing."""
    run_ns = wait_ns = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                ran, waited, _ = path.read_text().split()
            except (OSError, ValueError):
                continue  # it ended, or this kernel does not count
            run_ns, wait_ns = run_ns + int(ran), wait_ns + int(waited)
    return Turns(run_ns, wait_ns)


def slowdown(before: Turns, after: Turns) -> float:
    """How many times as long as on a free machine what ran between two moments took.

    A program that did not run has no excuse in the machine, so the factor is 1.

    Args:
        before: What the program had at the first moment.
        after: What it had at the second.

    Returns:
        At least 1, at most MAX_FACTOR.
    """
    ran, waited = after.run_ns - before.run_ns, after.wait_ns - before.wait_ns
    if ran <= 0 or waited <= 0:
        return 1.0
    return min(MAX_FACTOR, (ran + waited) / ran)
