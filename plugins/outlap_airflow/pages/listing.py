"""Rows of a page: narrowed, sorted and cut to one page of a list, here and not in the browser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 200
Row = dict[str, Any]


@dataclass(frozen=True)
class Asking:
    """What a viewer wants to see of a list. sort: a column; page: from 1; limit: rows on a page."""

    search: str = ""
    sort: str = ""
    descending: bool = False
    page: int = 1
    limit: int = 50


def matching(rows: Iterable[Row], search: str, columns: Sequence[str]) -> list[Row]:
    """Rows in which every word of `search` stands in one of the columns, whatever its case."""
    words = search.lower().split()
    if not words:
        return list(rows)
    found = []
    for row in rows:
        text = "\n".join(str(row.get(column, "")) for column in columns).lower()
        if all(word in text for word in words):
            found.append(row)
    return found


def ordered(rows: list[Row], asking: Asking, orders: Mapping[str, Callable[[Row], Any]]) -> list[Row]:
    """Sorted by one of `orders` (the first when none of that name); rows without a value come last, either way."""
    value = orders.get(asking.sort) or next(iter(orders.values()))
    known = [row for row in rows if value(row) is not None]
    unknown = [row for row in rows if value(row) is None]
    return sorted(known, key=value, reverse=asking.descending) + unknown


def cut(rows: Sequence[Row], asking: Asking) -> dict[str, Any]:
    """{rows, total, page, pages, limit}: one page. One that is past the end is the last."""
    limit = max(1, min(asking.limit, MOST_ROWS))
    pages = max(1, -(-len(rows) // limit))
    page = max(1, min(asking.page, pages))
    return {
        "rows": list(rows[(page - 1) * limit : page * limit]),
        "total": len(rows),
        "page": page,
        "pages": pages,
        "limit": limit,
    }
