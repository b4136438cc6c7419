"""From the names in a user's list to objects: which store a reference means, and the path it gets in the version.

A reference is `STORE:KEY`, `s3://bucket/key`, or anything else that a mapping covers: PREFIX=STORE:PREFIX or PREFIX=FOLDER; the
longest prefix wins, and what follows it is the path in the version.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from lake.config import StoreConfig
from lake.errors import NotFound, Refused
from lake.imports import LOCAL, Found, Wanted
from lake.names import check_path
from lake.pickles import ListedFile

NAMED = 10
COLUMNS: tuple[tuple[str, object], ...] = (
    ("channel", pa.string()),
    ("timestamp_ns", pa.int64()),
    ("sample_id", pa.string()),
)


@dataclass(frozen=True)
class Mapped:
    """References that begin with `prefix` lie in `store` (LOCAL: a folder) below `base`."""

    prefix: str
    store: str
    base: str


def parse_mapping(text: str, stores: Iterable[str]) -> Mapped:
    """`PREFIX=STORE:PREFIX` or `PREFIX=/folder`. Raises Refused."""
    prefix, equals, target = text.partition("=")
    store, colon, base = target.partition(":")
    if equals and target.startswith(("/", "./", "../")):
        return Mapped(prefix, LOCAL, str(Path(target).absolute()))
    known = set(stores)
    if not equals or not colon or store not in known:
        raise Refused(
            f"the mapping {text!r}",
            f"it is not PREFIX=STORE:PREFIX with a store of the settings ({', '.join(sorted(known)) or 'none'}), "
            "nor PREFIX=/FOLDER",
            "for example --map ./data/nuscenes/=lake-a:nuscenes/",
        )
    if base.strip("/"):
        check_path(base.strip("/"))  # else what may be read by its beginning could be left by `..`
    return Mapped(prefix, store, base.strip("/"))


def store_mappings(stores: Mapping[str, StoreConfig]) -> list[Mapped]:
    """What the settings say by themselves: `NAME:` and the s3:// address of each store."""
    found = []
    for name, config in stores.items():
        found.append(Mapped(f"{name}:", name, ""))
        url = urlsplit(config.url)
        if url.scheme == "s3":
            below = url.path.strip("/")
            found.append(Mapped(f"s3://{url.netloc}/{below + '/' if below else ''}", name, ""))
    return found


def place_of(reference: str, mappings: Sequence[Mapped]) -> Wanted | None:
    """Where a reference lies, None when no mapping covers it. Raises Refused for one that leads out of its mapping."""
    plain = reference.removeprefix("file://")
    fitting = [mapped for mapped in mappings if plain.startswith(mapped.prefix)]
    if not fitting:
        return None
    mapped = max(fitting, key=lambda one: len(one.prefix))
    rest = plain[len(mapped.prefix) :].lstrip("/")
    path = posixpath.normpath(rest) if rest else ""
    check_path(path)
    key = posixpath.join(mapped.base, path) if mapped.base else path
    return Wanted(path, mapped.store, key)


def prefix_of(uri: str, mappings: Sequence[Mapped]) -> Wanted:
    """The store and the prefix in it that `STORE:PREFIX` or `s3://bucket/prefix` means. Raises NotFound, Refused."""
    fitting = [
        mapped
        for mapped in mappings
        if f"{uri.rstrip('/')}/".startswith(mapped.prefix) or uri.startswith(mapped.prefix)
    ]
    if not fitting:
        known = ", ".join(sorted(mapped.prefix for mapped in mappings)) or "none"
        raise NotFound(
            f"the store of {uri}", f"the settings know: {known}", "describe the store in outlap.toml"
        )
    mapped = max(fitting, key=lambda one: len(one.prefix))
    prefix = uri[len(mapped.prefix) :].strip("/")
    if prefix:
        check_path(prefix)
    return Wanted(prefix, mapped.store, prefix)


def resolve(
    listed: Iterable[ListedFile], mappings: Sequence[Mapped]
) -> tuple[list[Wanted], dict[str, ListedFile]]:
    """(where each file lies, what the list says of each path). Raises Refused, naming references that no mapping covers."""
    wanted: list[Wanted] = []
    said: dict[str, ListedFile] = {}
    unknown: list[str] = []
    for item in listed:
        place = place_of(item.reference, mappings)
        if place is None:
            unknown.append(item.reference)
            continue
        wanted.append(place)
        said.setdefault(place.path, item)
    if unknown:
        raise Refused(
            f"{len(unknown):,} of {len(unknown) + len(wanted):,} names in the list",
            f"no store is known for them: {', '.join(repr(name[:200]) for name in unknown[:NAMED])}",
            "say where they lie: --map PREFIX=STORE:PREFIX (or PREFIX=/FOLDER)",
        )
    return wanted, said


def described(items: pa.Table, said: Mapping[str, ListedFile]) -> pa.Table:
    """ITEMS with the columns channel, timestamp_ns and sample_id that the list gives, where it gives any."""
    rows = [said[path] for path in items["path"].to_pylist()]
    for name, kind in COLUMNS:
        values = [getattr(row, name) for row in rows]
        if any(value is not None for value in values):
            items = items.append_column(name, pa.array(values, kind))
    return items


def check_found(found: Found, skip_missing: bool) -> None:
    """Raises NotFound, naming what the list has and the stores have not, unless that is to be skipped."""
    if found.missing and not skip_missing:
        raise NotFound(
            f"{len(found.missing):,} of {len(found.missing) + found.items.num_rows:,} files of the list",
            f"they are not there: {', '.join(found.missing[:NAMED])}",
            "correct the list or the mapping, or publish without them (--skip-missing)",
        )
