"""Names that reach keys, paths and pages: what is legal, said once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from lake.errors import Refused

PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,127}")
DATASET = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = re.compile(r"[0-9a-f]{6,64}")


def check_part(what: str, name: str) -> str:
    """A vehicle, drive, channel or date: one part of a key. Raises Refused."""
    if PART.fullmatch(name) is None or ".." in name:
        raise Refused(
            f"{what} {name[:80]!r}",
            "a name is 1 to 128 letters, digits and . _ + = -, and starts with a letter or digit",
            "rename it",
        )
    return name


def check_dataset(name: str) -> str:
    """The name of a dataset. Raises Refused."""
    if DATASET.fullmatch(name) is None or ".." in name:
        raise Refused(
            f"the dataset {name[:80]!r}",
            "a name is 1 to 100 small letters, digits and . _ -, and starts with a letter or digit",
            "choose another name",
        )
    return name


def check_tag(tag: str) -> str:
    """A tag; one that could be a version id prefix is refused, so that NAME@TAG means one thing."""
    if TAG.fullmatch(tag) is None or ".." in tag or RESERVED.fullmatch(tag):
        raise Refused(
            f"the tag {tag[:80]!r}",
            "a tag is 1 to 100 letters, digits and . _ -, and not six or more hex digits (that is a version id)",
            "choose another tag",
        )
    return tag


def check_path(path: str) -> str:
    """A path of a version or an uploaded file: relative, plain, every part at most 255 bytes. Raises Refused."""
    parts = path.split("/")
    if (
        not path
        or "\0" in path
        or len(path.encode("utf-8", "surrogatepass")) > 4000
        or any(p in ("", ".", "..") or len(p.encode("utf-8", "surrogatepass")) > 255 for p in parts)
    ):
        raise Refused(
            f"the path {path[:200]!r}", "it is no plain relative path with parts of at most 255 bytes"
        )
    return path


def near_names(name: str, known: Collection[str], shown: int = 20) -> str:
    """The names that there are, for a message about one that there is not: those that are near it first.

    Args:
        name: what was asked for.
        known: the names that there are.
        shown: how many are listed at most.

    Returns:
        Names parted by commas, and how many more there are; `none` when there is no name at all.
    """
    ordered = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, ordered, n=5, cutoff=0.6)
    rest = [one for one in ordered if one not in near] if not near or len(ordered) <= shown else []
    listed = [*near, *rest][:shown]
    more = len(ordered) - len(listed)
    return ", ".join(listed) + (f" and {more:,} more" if more else "") if listed else "none"
