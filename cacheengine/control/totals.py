"""What a version, or a list of its files, amounts to: read from the lake, which alone knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lake import refs, versions
from lake.errors import NotFound
from lake.stores import Store

MOST_NAMED = 10


class Totals(NamedTuple):
    files: int
    bytes: int


def resolve(store: Store, dataset: str, ref: str) -> refs.Ref:
    """As lake.refs.resolve, but `latest` becomes the numbered tag, because it moves and what is warm does not."""
    found = refs.resolve(store, dataset, ref)
    return refs.resolve(store, dataset, found.version) if found.tag == refs.LATEST else found


def of_version(store: Store, version: str) -> Totals:
    """Raises NotFound when the version is not wholly in this store."""
    available = versions.read_available(store, version)
    return Totals(available.files, available.bytes)


def of_list(store: Store, version: str, paths: Sequence[str]) -> Totals:
    """Totals of these files of a version. Raises NotFound, naming paths that it has not."""
    wanted = pa.array(sorted(set(paths)), pa.string())
    seen = pa.chunked_array([], pa.string())
    files = size = 0
    for table in versions.rows(store, version):
        table = table.filter(pc.is_in(table["path"], value_set=wanted))
        files += table.num_rows
        size += pc.sum(table["size"]).as_py() or 0
        seen = pa.chunked_array(seen.chunks + table["path"].cast(pa.string()).chunks, pa.string())
    if files < len(wanted):
        missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=seen.combine_chunks())))
        named = ", ".join(missing.slice(0, MOST_NAMED).to_pylist())
        raise NotFound(
            f"{len(missing)} of {len(wanted)} paths in version {version[:12]}",
            f"the version has no {named}",
            "correct the file list (`outlap show` lists paths)",
        )
    return Totals(files, size)


def all_paths(store: Store, version: str) -> list[str]:
    """Every path of a version."""
    return [path for table in versions.rows(store, version) for path in table["path"].to_pylist()]
