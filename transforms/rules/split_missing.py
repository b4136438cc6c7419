"""split-missing: a part of a split log is not among the files of the drive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from transforms.recordings.formats import plain_stem, split_of
from transforms.rules.rule import DriveRule
from transforms.seen import Seen

LARGEST = 16 << 20


def _listed(text: str) -> list[str]:
    """The files that rosbag2's metadata.yaml lists: one `- name` a line below relative_file_paths."""
    block = re.search(r"^\s*relative_file_paths:\s*\n((?:\s*-\s.*\n?)*)", text, re.MULTILINE)
    return re.findall(r"-\s+['\"]?([^'\"\n]+?)['\"]?\s*$", block[1], re.MULTILINE) if block else []


def check(drive: Sequence[Seen]) -> Iterable[tuple[str, str]]:
    there = {seen.file.path for seen in drive}
    for seen in drive:
        if PurePosixPath(seen.file.path).name == "metadata.yaml" and seen.path and seen.file.size < LARGEST:
            folder = PurePosixPath(seen.file.path).parent
            for name in _listed(seen.path.read_text("utf-8", "replace")):
                if str(folder / PurePosixPath(name).name) not in there and str(folder / name) not in there:
                    yield seen.file.path, f"it lists {name[:200]}, which is not there"
    parts: dict[str, set[int]] = {}
    for seen in drive:
        base, number = split_of(seen.file.path)
        if base != plain_stem(seen.file.path):
            parts.setdefault(base, set()).add(number)
    for base, numbers in sorted(parts.items()):
        lost = sorted(set(range(min(numbers), max(numbers))) - numbers)
        if lost:
            yield f"{base}_{min(numbers)}", f"parts {', '.join(map(str, lost[:10]))} of its log are not there"


RULE = DriveRule("split-missing", "error", check)
