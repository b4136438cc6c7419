"""Points at which tests let a process die, as `kill -9` at that instant would. Nothing else uses this.

`OUTLAP_CRASH_AT=<point>` or `<point>:<n>` (at the n-th time it is reached). The points are the calls of `reach` in the code.
"""

from __future__ import annotations

import os
import signal

_POINT, _, _COUNT = os.environ.get("OUTLAP_CRASH_AT", "").partition(":")
_left = [int(_COUNT or 1)]


def reach(point: str) -> None:
    """Die here when the environment says so."""
    if point == _POINT:
        _left[0] -= 1
        if _left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
