"""What the property tests generated, and how many cases: `python -m tests.properties [TIMES] [FOLDER…]` runs them and prints a table.

TIMES multiplies the cases of each (1: as the suite runs them). The text of a row is the first line of the test's own.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest
from hypothesis import settings

TIMES = "OUTLAP_TEST_CASES_TIMES"
CASES = re.compile(r"(\d+) passing, (\d+) failing, and (\d+) invalid")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """As a plugin: only property tests, with so many times their cases."""
    kept = []
    for item in items:
        test = getattr(item, "obj", None)
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if test is None or not getattr(test, "is_hypothesis_test", False):
            continue
        own = own or settings()
        test._hypothesis_internal_use_settings = settings(
            own, max_examples=own.max_examples * int(os.environ[TIMES])
        )
        said = (inspect.getdoc(test) or "").partition("\n")[0]
        print(f"\nproperty {item.nodeid} {said}")
        kept.append(item)
    items[:] = kept


def main(times: str, folders: list[str]) -> int:
    """Run them in a process of its own, and print the table. The exit code is that of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "not slow", "-p", "tests.properties"]
    done = subprocess.run(
        [*command, "--hypothesis-show-statistics", *folders],
        env={**os.environ, TIMES: times},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    said: dict[str, str] = {}
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    test = ""
    for line in done.stdout.splitlines():
        if line.startswith("property "):
            _, name, text = line.split(" ", 2)
            said[name] = text
        elif line.removesuffix(":") in said:
            test = line.removesuffix(":")
        elif found := CASES.search(line):
            for place, number in enumerate(found.groups()):
                counts[test][place] += int(number)
    print("| test | generated, and what holds | cases | failed |", "|---|---|--:|--:|", sep="\n")
    for name, text in said.items():
        file, _, function = name.partition("::")
        passing, failing, _ = counts[name]
        print(f"| `{file.removeprefix('tests/')}` {function} | {text} | {passing:,} | {failing} |")
    print(f"\n{sum(passing for passing, *_ in counts.values()):,} cases in {len(said)} tests.")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "1", sys.argv[2:] or ["tests/lake"]))
