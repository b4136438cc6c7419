"""A publish from what lies in stores: a prefix, a list of names, a pickled list; packed on the way in, or in place.

The command and Airflow call these with an Order; which stores may be read, and whether folders of this machine may, is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake import catalog, imports, listed, pickles, stores
from lake.config import StoreConfig
from lake.errors import NotFound, Refused
from lake.imports import LOCAL, Progress
from lake.inplace import publish_in_place
from lake.publish import Published, publish_items, publish_rows
from lake.snapshots import keep_snapshot
from lake.stores import Store


@dataclass(frozen=True)
class Order:
    """What a publish asks for beside its source.

    stores: those that may be read, by name; allowed: `STORE:PREFIX` beginnings of what may be read (None: all of these stores, and
    folders of this machine); maps: `PREFIX=STORE:PREFIX` of names in a list; identity: with in_place, as lake.inplace has it.
    """

    store: Store
    dataset: str
    origin: Mapping[str, Any]
    scratch: Path
    stores: Mapping[str, StoreConfig]
    open_named: Callable[[str], Store]
    tag: str | None = None
    in_place: bool = False
    identity: str = "content"
    skip_missing: bool = False
    maps: Sequence[str] = ()
    allowed: Sequence[str] | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Done:
    """missing: files of a list that are in no store; duplicates: paths that stood in it twice."""

    published: Published
    missing: tuple[str, ...] = field(default=())
    duplicates: tuple[str, ...] = field(default=())


def publish_folder(order: Order, folder: Path) -> Done:
    """The files below a folder of this machine. Raises Refused where only stores may be read, NotFound."""
    if order.allowed is not None:
        raise Refused(f"the folder {folder}", "only stores may be read here", "name STORE:PREFIX")
    return Done(_items(order, imports.folder_items(folder), {"from": str(folder)}))


def publish_prefix(order: Order, uri: str) -> Done:
    """The objects below `STORE:PREFIX` or s3://BUCKET/PREFIX. Raises NotFound, Refused."""
    place = listed.prefix_of(uri, listed.store_mappings(order.stores))
    _check_allowed(order, f"{place.store}:{place.key.strip('/')}/")
    items = imports.prefix_items(order.open_named(place.store), place.key)
    return Done(_items(order, items, {"from": uri}))


def publish_names(order: Order, lines: Sequence[str], what: str) -> Done:
    """A list: paths of frames in the catalogue, or names of objects (STORE:KEY, s3://…, or what `maps` covers).

    what: its name, for the origin and for errors. Raises NotFound for what is not there (unless skip_missing), Refused.
    """
    if not any(listed.place_of(line, _mappings(order)) for line in lines):
        return Done(_frames(order, lines, what))
    return _listed(order, [pickles.ListedFile(line) for line in lines], {"files": what})


def publish_pickle(order: Order, path: Path, what: str) -> Done:
    """A pickled list of files, read without running it. Raises as `publish_names`."""
    return _listed(order, list(pickles.read_pickle(path)), {"pkl": what})


def fetch_list(order: Order, uri: str, local: Path, most: int) -> Path:
    """Bring an object of at most `most` bytes here: a list, or a pickle. Raises NotFound, Refused."""
    place = listed.prefix_of(uri, listed.store_mappings(order.stores))
    _check_allowed(order, f"{place.store}:{place.key}")
    store = order.open_named(place.store)
    info = stores.head(store, place.key)
    if info is None:
        raise NotFound(f"the list {uri}", f"store {store.name} has no such object", "check its name")
    if info.size > most:
        raise Refused(
            f"the list {uri}", f"it has {info.size:,} bytes, {most:,} are allowed", "publish its prefix"
        )
    with local.open("wb") as out:
        for piece in stores.stream(store, place.key):
            out.write(piece)
    return local


def _mappings(order: Order) -> list[listed.Mapped]:
    given = [listed.parse_mapping(text, order.stores) for text in order.maps]
    if order.allowed is not None and any(mapped.store == LOCAL for mapped in given):
        raise Refused("a mapping to a folder", "only stores may be read here", "map to STORE:PREFIX")
    return [*listed.store_mappings(order.stores), *given]


def _check_allowed(order: Order, place: str) -> None:
    if order.allowed is not None and not any(place.startswith(prefix) for prefix in order.allowed):
        raise Refused(
            f"reading {place[:200]}",
            f"what may be published from is: {', '.join(order.allowed) or 'nothing'}",
            "ask who keeps the settings ([airflow] sources)",
        )


def _listed(order: Order, named: Sequence[pickles.ListedFile], made_by: dict[str, Any]) -> Done:
    wanted, said = listed.resolve(named, _mappings(order))
    for place in wanted:
        _check_allowed(order, f"{place.store}:{place.key}")
    found = imports.listed_items(wanted, order.open_named)
    listed.check_found(found, order.skip_missing)
    items = listed.described(found.items, said)
    made_by = {**made_by, "listed": len(named)}
    if found.missing:
        made_by["missing"] = len(found.missing)
    return Done(_items(order, items, made_by), found.missing, found.duplicates)


def _items(order: Order, items: pa.Table, made_by: Mapping[str, Any]) -> Published:
    """Publish items packed, or in place."""
    origin = {**order.origin, **made_by}
    if order.in_place:
        origin["in_place"] = order.identity
        return publish_in_place(
            order.store,
            order.dataset,
            items,
            order.open_named,
            origin,
            order.tag,
            order.identity,
            order.progress,
        )
    return publish_items(
        order.store, order.dataset, items, order.open_named, order.scratch, origin, order.tag, order.progress
    )


def _frames(order: Order, lines: Sequence[str], what: str) -> Published:
    """The frames of the catalogue whose paths a list names. Raises NotFound for a path that is not there."""
    wanted = pa.array(sorted(set(lines)), pa.string())
    with catalog.query(order.store, "select * from frames", order.scratch) as answer:
        chosen = [batch.filter(pc.is_in(batch["path"], wanted)) for batch in answer.rows]
        found = pa.concat_tables(chosen)["path"].combine_chunks() if chosen else pa.array([], pa.string())
        missing = wanted.filter(pc.invert(pc.is_in(wanted, found)))
        if len(missing):
            raise NotFound(
                f"{missing[0].as_py()} of {what}",
                f"{len(missing)} of {len(wanted)} paths are not in the catalogue, and no --map covers them",
                "correct the list; `outlap publish NAME --query` selects by tags",
            )
        made_by = {**order.origin, "files": len(wanted), "catalog": answer.snapshot}
        return publish_rows(
            order.store,
            order.dataset,
            chosen,
            answer.schema,
            made_by,
            order.tag,
            keep=lambda: keep_snapshot(order.store, answer.files),
        )
