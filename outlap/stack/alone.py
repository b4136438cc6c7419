"""Run a command after ending what an earlier run of the same program left alive.

`airflow standalone` starts its parts as children and does not end them when it is killed: a restart would find its own
port taken by an orphan. Used as `python -m outlap.stack.alone COMMAND…` by the supervisor's configuration.
"""

from __future__ import annotations

import os
import sys

from lake.config import home
from outlap.stack import leftovers
from outlap.stack.layout import Layout
from outlap.stack.programs import PROGRAM_MARK


def main() -> None:
    left = leftovers.processes(Layout(home()), os.environ[PROGRAM_MARK])
    if left:
        print(f"ending {len(left)} processes of the run before: {left}", file=sys.stderr, flush=True)
        leftovers.end_processes(left)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606


if __name__ == "__main__":
    main()
